"""What happens to a cell while it runs: workers tell the runner, and the runner its observers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dmlbench.results.history import Row
from dmlbench.results.records import Failure

LONGEST = 20_000  # characters of a message


@dataclass(frozen=True)
class Started:
    """A cell's training has begun, or begun again."""


@dataclass(frozen=True)
class Epoch:
    """An epoch has ended, or the untrained network was measured: `epoch` 0.

    `row` is the epoch's of the history.
    """

    epoch: int
    epochs: int
    row: Row


@dataclass(frozen=True)
class Finished:
    """The cell has its result: `error` says why it failed."""

    error: Failure | None = None


@dataclass(frozen=True)
class Claimed:
    """Another process has the cell, or has just ended it: `done`."""

    done: bool


@dataclass(frozen=True)
class Halted:
    """The cell can be resumed: its folder cannot be written, or another host took it over."""

    error: Failure


@dataclass(frozen=True)
class Stopped:
    """The cell was asked to stop, and can be resumed."""


Event = Started | Epoch | Finished | Claimed | Halted | Stopped


def ending(event: Event) -> bool:
    """Whether a cell's events end with this one, for its process."""
    return not isinstance(event, Started | Epoch)


def may_stop(event: Event) -> bool:
    """Whether a cell that was asked to stop does so after this event: before its last epoch."""
    return isinstance(event, Started) or (isinstance(event, Epoch) and event.epoch < event.epochs)


def halted(kind: Literal["storage", "claim"], error: Exception) -> Halted:
    """The event of a cell whose folder cannot be written, or whose claim was lost."""
    return Halted(failure(kind, type(error).__name__, str(error)))


def failure(kind: str, error_class: str, message: str, log: Sequence[str] = ()) -> Failure:
    """Why a cell failed, with the last lines of its log where they tell more."""
    content = {"kind": kind, "class": error_class, "message": message[:LONGEST]}
    return Failure.model_validate(content | ({"log": list(log)} if log else {}))
