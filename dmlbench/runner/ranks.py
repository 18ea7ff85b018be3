"""The processes that train a cell together with the one that runs it, each on a GPU of its own (`--gpus-per-cell`).

The cell's own process is rank 0: it alone evaluates, writes and reports. The others wait for its word before each
epoch, so that only steps are collective and an evaluation may take any time.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from io import BytesIO
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist

from dmlbench.results.events import failure
from dmlbench.results.records import Failure
from dmlbench.runner.signals import SIGNALS, starting
from dmlbench.runner.tasks import RunOptions, cause_of, end_with_parent
from dmlbench.specs.cell import Cell

STUCK = timedelta(minutes=10)  # of one exchange: a rank may wait so long for another one's batch
GRACE = 20.0  # seconds in which a process whose partner has died notices that by itself
NOTICED = 2.0  # seconds in which a failure of another rank is heard of
GLANCE = 0.2


class RankError(Exception):
    """Another rank could not go on; `failure` says why."""

    def __init__(self, failed: Failure) -> None:
        super().__init__(failed.message)
        self.failure = failed


@dataclass
class _Other:
    """A process of another rank."""

    process: BaseProcess
    connection: Connection
    rank: int
    start: str = ""  # digest of its initial weights, when it has built its networks


class OtherRanks:
    """Ranks 1 to N - 1 of a cell's training, entered where the cell is built and left where it has been trained.

    Without any, with one GPU for a cell, nothing here does anything.

    Args:
        cell: What is trained.
        options: As the cell's own process has them, with its device.
        device: Of rank 0; the others have the ones after it, and on a CPU the same.
        give_up: Records a failure, where this process hangs in an exchange with a rank that has failed; the process
            ends after it.
    """

    def __init__(
        self, cell: Cell, options: RunOptions, device: torch.device, give_up: Callable[[Failure], None]
    ) -> None:
        self._cell, self._options, self._device, self._give_up = cell, options, device, give_up
        self._others: list[_Other] = []
        self._failed: Failure | None = None
        self._noticed, self._ended = threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        if self._options.gpus_per_cell > 1:
            self._folder = tempfile.TemporaryDirectory(prefix="dmlbench-ranks-")
            self._others = [self._start(rank) for rank in range(1, self._options.gpus_per_cell)]
        return self

    def _start(self, rank: int) -> _Other:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        place = self._device if self._device.index is None else torch.device("cuda", self._device.index + rank)
        arguments = (theirs, self._cell, replace(self._options, device=str(place)), rank, Path(self._folder.name))
        process = context.Process(target=_work, args=arguments, name=f"dmlbench rank {rank}")
        with starting():
            process.start()
        theirs.close()
        return _Other(process, ours, rank)

    def begin(self, start: str, state: dict[str, Any] | None) -> None:
        """Wait until all have built what they train, and bring them to where this process is.

        Args:
            start: Digest of the initial weights.
            state: Of the trainer, where it was restored.

        Raises:
            RankError: where one of them failed.
        """
        for other in self._others:
            while not other.start:
                wait([other.connection, other.process.sentinel])
                if failed := _heard(other):
                    raise RankError(failed)
            if other.start != start:
                said = f"rank {other.rank}: its initial weights ({other.start}) are not those of rank 0 ({start})"
                raise RankError(failure("error", "RankError", said))
        for other in self._others:
            with suppress(OSError):  # it has died, as will be seen
                _send_state(other.connection, state)
        if self._others:
            threading.Thread(target=self._watch, daemon=True).start()
            join(0, self._options.gpus_per_cell, self._device, Path(self._folder.name))

    def train(self, epoch: int) -> None:
        """Let them train an epoch, as this process is about to; raises RankError where one of them has failed."""
        if self._failed:
            raise RankError(self._failed)
        for other in self._others:
            with suppress(OSError):
                other.connection.send(epoch)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """End them. Where another rank's failure is the reason of this one's, that is raised in its place."""
        if not self._others:
            return
        if isinstance(error, RuntimeError):
            self._noticed.wait(NOTICED)
        self._ended.set()
        orderly = error is None or isinstance(error, SystemExit)  # trained, or asked to stop after an epoch
        for other in self._others:
            if orderly:
                with suppress(OSError):
                    other.connection.send(None)
                other.process.join(timeout=GRACE)
            other.process.kill()
            other.process.join()
            other.connection.close()
        # After a failure NCCL may wait for the others for ever; the process ends soon.
        if dist.is_initialized() and (orderly or self._device.type == "cpu"):
            dist.destroy_process_group()
        self._folder.cleanup()
        if self._failed and isinstance(error, RuntimeError):
            raise RankError(self._failed) from error

    def _watch(self) -> None:
        """See that another rank fails while this process waits for it, which on a GPU never hears of it."""
        while not self._ended.wait(GLANCE):
            if failed := next(filter(None, map(_heard, self._others)), None):
                self._failed = failed
                self._noticed.set()
                if not self._ended.wait(GRACE):
                    self._end_all(failed)
                return

    def _end_all(self, failed: Failure) -> None:
        """Record the failure and end this process, which hangs, and all others."""
        try:
            self._give_up(failed)
        finally:
            for other in self._others:
                other.process.kill()
            os._exit(1)


def _heard(other: _Other) -> Failure | None:
    """Why a rank has failed, by what it says or how it ended; None where it has not."""
    with suppress(EOFError, OSError):
        if other.connection.poll():
            said: str | Failure = other.connection.recv()
            if isinstance(said, Failure):
                return said.model_copy(update={"message": f"rank {other.rank}: {said.message}"})
            other.start = said
            return None
    if other.process.is_alive():
        return None
    other.process.join()
    return failure("died", "RankDied", f"rank {other.rank}: {cause_of(other.process.exitcode)}")


def join(rank: int, size: int, device: torch.device, folder: Path) -> None:
    """Make torch's default process group of the ranks that find each other in a folder."""
    backend, method = "nccl" if device.type == "cuda" else "gloo", f"file://{folder.resolve()}/store"
    dist.init_process_group(backend, init_method=method, rank=rank, world_size=size, timeout=STUCK)


def _send_state(connection: Connection, state: dict[str, Any] | None) -> None:
    content = BytesIO()
    torch.save(state, content)
    connection.send_bytes(content.getbuffer())


def _received_state(connection: Connection) -> dict[str, Any] | None:
    state: dict[str, Any] | None = torch.load(BytesIO(connection.recv_bytes()), map_location="cpu", weights_only=True)
    return state


def _work(connection: Connection, cell: Cell, options: RunOptions, rank: int, folder: Path) -> None:
    """The life of another rank: build, say so, take the state, and train epoch by epoch as rank 0 says."""
    for number in SIGNALS:  # rank 0 decides what stops
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    from dmlbench.runner.cell import failure_of, train_along

    def begin(start: str) -> tuple[dict[str, Any] | None, Callable[[], int | None]]:
        connection.send(start)
        state = _received_state(connection)
        join(rank, options.gpus_per_cell, torch.device(options.device), folder)
        return state, connection.recv

    try:
        train_along(cell, options, rank, begin)
    except (EOFError, ConnectionResetError):  # rank 0 has gone
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, rank 0 reports it
        traceback.print_exc()  # to the cell's log, which is rank 0's output
        with suppress(OSError):
            connection.send(failure_of(error))
        sys.exit(1)
    if dist.is_initialized():
        dist.destroy_process_group()
