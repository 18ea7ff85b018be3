"""What executors share: how a cell is run, tasks, and the failure of a cell whose process died."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dmlbench.errors import StorageError
from dmlbench.results.events import Event, Finished, failure
from dmlbench.results.records import Environment, Index, Summary
from dmlbench.results.store import read_summary
from dmlbench.results.writer import CellWriter
from dmlbench.specs.cell import Cell

MOST_DATA_WORKERS = 8  # decode faster than a GPU trains


@dataclass(frozen=True)
class Share:
    """What each cell takes of the machines: CPU threads, a part of a GPU, loader processes.

    `workers` is the most cells at a time. None leaves a number to the machine.
    """

    threads: int = 1
    per_gpu: int = 1
    workers: int | None = None
    data_workers: int | None = None


@dataclass(frozen=True)
class RunOptions:
    """How a cell is run. It names no other experiment, so it stays out of the hash.

    The device alone can change digits (another generator, other kernels): results record it, and two results of
    different kinds of device are not paired.
    """

    data_dir: Path | None = None
    device: str = "auto"
    data_workers: int = 0
    keep: tuple[str, ...] = ()
    processes: int = 1
    system_metrics: bool = False
    gpus_per_cell: int = 1

    def machine_load(self) -> dict[str, int]:
        """What shares the machine with the cell, for its result: times under different loads do not compare."""
        load = {"processes": self.processes, "data_workers": self.data_workers}
        load |= {"gpus_per_cell": self.gpus_per_cell} if self.gpus_per_cell > 1 else {}
        return load | ({"system_metrics": 1} if self.system_metrics else {})


OnEvent = Callable[["Task", Event], None]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LAST_WORDS = 5  # lines of a dead worker's log that its failure quotes


@dataclass(frozen=True)
class Task:
    """A cell and the folder it writes.

    `failure` is the time stamp of the one that this run may replace; one that came since is another runner's.
    """

    cell: Cell
    folder: Path
    failure: int | None = None


def record_death(task: Task, cause: str) -> Event:
    """Write the failure of a cell whose process died, with what its log last said; a result stays one.

    Its checkpoint stays too, so a retry resumes there. Only for the holder of the cell's claim.
    """
    if (summary := read_summary(task.folder)) and summary.done:
        return Finished()
    log = task.folder / "log.txt"
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_WORDS:] if log.is_file() else []
    error = failure("died", "WorkerDied", cause, tail)
    with suppress(StorageError, OSError):  # then it counts as interrupted, which is as good
        task.folder.mkdir(parents=True, exist_ok=True)
        writer = CellWriter(task.folder)
        if not (task.folder / "spec.yaml").is_file():  # it died before it began
            writer.begin(task.cell)
        writer.log(cause)
        index = Index(**task.cell.index())
        writer.finish(Summary(cell=index, environment=Environment(), status="failed", error=error).as_json())
    return Finished(error)


def end_with_parent() -> None:
    """End at once when the parent process was killed: its restart wants the cell, and every file is always whole."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def cause_of(exit_code: int | None) -> str:
    """Why a process ended, in words, with what may help."""
    if exit_code is None or exit_code >= 0:
        return f"the worker process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    likely = {
        "SIGKILL": " (out of memory? fewer --workers or --data-workers need less)",
        "SIGSEGV": " (a crash in a library: the end of the log may tell which)",
        "SIGBUS": " (is a disk full, or the shared memory of the container?)",
    }
    return f"the worker process ended with signal {name}{likely.get(name, '')}"
