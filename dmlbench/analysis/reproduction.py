"""Whether a cell that was trained again has its recorded numbers: to the last bit, or as another seed would."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from statistics import stdev

from scipy import special

from dmlbench.analysis.statistics import FEWEST
from dmlbench.results.environment import kind_of_machine
from dmlbench.results.history import Row, epoch_of, read_history
from dmlbench.results.records import Summary
from dmlbench.results.store import Record

COVERAGE = 0.95  # of the prediction interval
JUDGED = ("recall_at_1", "map_at_r")  # at the last epoch
TIME = "time/"  # begins the columns of a history that no two runs share
LEFT_OUT = ("dmlbench",)  # of a kind of machine: the digest of the training code says it


class Verdict(StrEnum):
    """What a second training says of a recorded result."""

    EQUAL = "equal to the last bit"
    WITHIN = "within the spread over seeds"
    DIFFERS = "differs"
    NONE = "no verdict"
    FAILED = "failed"
    UNFINISHED = "not finished"

    @property
    def agrees(self) -> bool:
        """Whether the recorded result is confirmed."""
        return self in (Verdict.EQUAL, Verdict.WITHIN)


@dataclass(frozen=True)
class Change:
    """A metric at the last epoch, as recorded and again, both fractions.

    Attributes:
        most: By how much two seeds of the cell's row differ at most, with 95% certainty; None with too few seeds.
    """

    metric: str
    recorded: float
    again: float
    most: float | None

    @property
    def difference(self) -> float:
        """The new value minus the recorded one."""
        return self.again - self.recorded


@dataclass(frozen=True)
class OtherOrigin:
    """What bits depend on, and is not as it was when the result was recorded."""

    what: str
    recorded: str
    here: str


@dataclass(frozen=True)
class Reproduction:
    """A recorded result and what training its cell again gave.

    Attributes:
        changes: Of R@1, and MAP@R where it was measured; none where the second training has no result.
        seeds: Seeds of the cell's row in the same results, from which the spread is known.
        origins: What is not as recorded, so that bits may differ; none where they must be equal.
        reason: Why the cell differs, failed or has no verdict, in words; empty otherwise.
    """

    verdict: Verdict
    changes: tuple[Change, ...] = ()
    seeds: int = 0
    origins: tuple[OtherOrigin, ...] = ()
    reason: str = ""

    @property
    def spread_counts(self) -> bool:
        """Whether the cell was held to the spread over seeds: bits differ, and may."""
        return bool(self.origins) and self.verdict in (Verdict.WITHIN, Verdict.DIFFERS)


def compare(recorded: Record, again: Record, row: Sequence[Summary]) -> Reproduction:
    """Compare a recorded result with a second training of its cell.

    Every metric of every epoch counts, and the initial weights. Where bits differ and may, for another machine,
    library or training code made them, R@1 and MAP@R of the last epoch are held to the 95% prediction interval for the
    difference of two seeds: t(.975, n - 1) * s * sqrt(2), with s the standard deviation of the row's n seeds.

    Args:
        recorded: The result that is checked.
        again: What the second training gave.
        row: The finished results of the cell's method, dataset and protocol, one a seed, the recorded one included.

    Raises:
        UserError: where a history cannot be read.
    """
    if not again.done:
        return Reproduction(Verdict.FAILED, reason=str(again.summary.error))
    origins, changes = other_origins(recorded.summary, again.summary), _changes(recorded.summary, again.summary, row)

    def found(verdict: Verdict, reason: str = "") -> Reproduction:
        return Reproduction(verdict, changes, len(row), origins, reason)

    if wrong := _not_comparable(recorded, again):
        return found(Verdict.DIFFERS, wrong)
    if not (first := _first_difference(recorded, again)):
        return found(Verdict.EQUAL)
    if not origins:
        return found(Verdict.DIFFERS, f"{first}; {_same(recorded.summary, again.summary)}")
    if any(change.most is None for change in changes):
        return found(Verdict.NONE, f"{len(row)} of {FEWEST} seeds that a spread needs")
    beyond = [change for change in changes if abs(change.difference) > (change.most or 0.0)]
    return found(Verdict.DIFFERS, first) if beyond else found(Verdict.WITHIN)


def other_origins(recorded: Summary, again: Summary) -> tuple[OtherOrigin, ...]:
    """What bits depend on that differs between two results: device, processor, libraries, training code."""
    pairs = [("device", recorded.environment.device_kind, again.environment.device_kind)]
    if recorded.environment.device_kind == again.environment.device_kind:
        before, now = kind_of_machine(recorded.environment), kind_of_machine(again.environment)
        pairs += [(name.replace("_", " "), before[name], now[name]) for name in now if name not in LEFT_OUT]
    together, now_together = recorded.environment.gpus_per_cell or 1, again.environment.gpus_per_cell or 1
    pairs += [("GPUs per cell", str(together), str(now_together))]
    pairs += [("training code", recorded.code.digest or "unknown", again.code.digest or "unknown")]
    return tuple(OtherOrigin(what, before, now) for what, before, now in pairs if before != now)


def _changes(recorded: Summary, again: Summary, row: Sequence[Summary]) -> tuple[Change, ...]:
    shared = [metric for metric in JUDGED if metric in recorded.last and metric in again.last]
    return tuple(Change(name, recorded.last[name], again.last[name], _most(name, row)) for name in shared)


def _most(metric: str, row: Sequence[Summary]) -> float | None:
    values = [summary.last[metric] for summary in row if metric in summary.last]
    if len(values) < FEWEST:
        return None
    return float(special.stdtrit(len(values) - 1, (1 + COVERAGE) / 2)) * stdev(values) * sqrt(2)


def _not_comparable(recorded: Record, again: Record) -> str:
    """Why no spread excuses a difference; empty where nothing is wrong."""
    same = _fingerprint(recorded.summary) == _fingerprint(again.summary)
    return "" if same else "the images have another fingerprint than the recorded ones"


def _fingerprint(summary: Summary) -> str:
    return summary.dataset.fingerprint if summary.dataset else ""


def _first_difference(recorded: Record, again: Record) -> str:
    """The first value that is another one, in words; empty where all recorded ones are equal."""
    if recorded.summary.initial_weights != again.summary.initial_weights:
        return "the initial weights differ"
    before, now = read_history(recorded.folder), read_history(again.folder)
    for first, second in zip(before, now, strict=False):
        if found := _other_value(first, second):
            return found
    return "" if len(before) == len(now) else f"{len(before)} epochs recorded, {len(now)} here"


def _other_value(recorded: Row, again: Row) -> str:
    """Of two rows of histories; what only the new one has measured, as later releases may, is no difference."""
    for name, value in recorded.items():
        if value != again.get(name) and not name.startswith(TIME):
            return f"first in epoch {epoch_of(recorded)}: {name} {value} recorded, {again.get(name)} here"
    return ""


def _same(recorded: Summary, again: Summary) -> str:
    same = "this kind of machine, these libraries and this training code made the record, so bits must be equal"
    if recorded.environment.machine == again.environment.machine:
        return same
    return f"{same} (it was another machine, of which only the processor's name is known)"
