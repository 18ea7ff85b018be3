"""What a SLURM job does: it runs its cells in processes of its node, and is queued again where its time is too short.

submitit calls a `Bundle` on the node, and handles the signal that SLURM sends before the time limit by saving what
`checkpoint` returns and requeueing the job, all at once. A cell can only stop after an epoch, so here the signal is
taken first: the cells stop, and then submitit's own handler is called. SIGTERM, which submitit ignores, is the first
that a preempted job hears where its partition has a GraceTime, and a cancelled one, too: the cells stop, and the job is
queued again if SLURM still counts it as running.
"""

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Self

from submitit.core.job_environment import JobEnvironment
from submitit.helpers import DelayedSubmission
from submitit.slurm.slurm import SlurmJobEnvironment

from dmlbench.errors import UserError
from dmlbench.results.events import Claimed, Event
from dmlbench.results.history import read_history
from dmlbench.results.locks import LEASE
from dmlbench.results.slurm_queue import Answer, ask
from dmlbench.results.store import has_ended
from dmlbench.runner.execution import Execution, cells_on, check_gpus_per_cell, gpus_of
from dmlbench.runner.matrix import run_here
from dmlbench.runner.tasks import Task
from dmlbench.specs.slurm import EARLY

NUMBER = JobEnvironment._usr_sig()  # SIGUSR2, unless the user's SUBMITIT_PREEMPT_SIGNAL names another
TOLD = (NUMBER, signal.SIGTERM)
MARGIN = 20  # seconds that are left to the end of the job for saving and requeueing it


@dataclass
class Bundle:
    """The cells of a job; a callable that submitit pickles.

    Args:
        tasks: The cells, with absolute folders.
        execution: How they run on the node, with absolute paths.
        minutes: The job's time limit.
        stop_before: Seconds before the limit at which SLURM sends its signal.
    """

    tasks: tuple[Task, ...]
    execution: Execution
    minutes: int
    stop_before: int
    _begun: float | None = field(default=None, init=False)
    _before: tuple[int, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        """Note how far the cells are: SLURM's signal may come before the job has looked."""
        self._before = self._progress()

    def __call__(self) -> str:
        """Run the cells; how many have a result. Does not return where the job is queued again."""
        self._begun, self._before = time.monotonic(), self._progress()
        requeue: Any = signal.getsignal(NUMBER)
        limit = Limit(max(self.stop_before - MARGIN, self.stop_before / 2))
        try:
            with limit:
                self._run(limit)
        except KeyboardInterrupt:
            if not limit.asked:
                raise
            _say("the epoch was not finished in time and is lost; the one before is not")
        if limit.asked and self._open() and callable(requeue) and (limit.out_of_time or _counts_as_running()):
            requeue(NUMBER, None)
        return f"{len(self.tasks) - len(self._open())} of {len(self.tasks)} cells have a result"

    def checkpoint(self) -> DelayedSubmission | None:
        """What runs when the job is queued again; None, so that it is not, where a whole job took no cell further.

        The cells' own checkpoints hold all else. A cell whose checkpoint is of another kind of machine begins again:
        until it has more epochs than before, it is no further.
        """
        least = 60 * self.minutes - self.stop_before - EARLY
        whole = self._begun is not None and time.monotonic() - self._begun >= least
        if whole and not any(after > before for after, before in zip(self._progress(), self._before, strict=True)):
            _say(
                "no cell got further than before within the job's time limit: give it a longer one, or, where cells "
                "began again on another kind of machine, a constraint that names one kind"
            )
            return None
        return DelayedSubmission(Bundle(self.tasks, self.execution, self.minutes, self.stop_before))

    def _run(self, limit: "Limit") -> None:
        """Run the open cells. One that a job which was lost with its node still claims is tried again later."""
        claimed: set[str] = set()

        def note(task: Task, event: Event) -> None:
            if isinstance(event, Claimed) and not event.done:
                claimed.add(task.cell.hash)

        execution = _fitting(self.execution)
        check_gpus_per_cell([task.cell for task in self.tasks], execution)
        run_here(self._open(), execution, note, limit)
        again = [task for task in self._open() if task.cell.hash in claimed]
        if again and not limit.asked:
            time.sleep(LEASE)
            run_here(again, execution, note, limit)

    def _open(self) -> Sequence[Task]:
        """The cells without a result, but for a failure that is to be replaced."""
        return [task for task in self.tasks if not _ended(task)]

    def _progress(self) -> tuple[int, ...]:
        """Epochs that each cell has, and one more for a result."""
        return tuple(_epochs(task) + _ended(task) for task in self.tasks)


class Limit:
    """Asks cells to stop when SLURM says that the job will end, and ends them where they do not.

    Args:
        grace: Seconds that they have; then KeyboardInterrupt is raised.

    Attributes:
        asked: Whether SLURM has said so.
        out_of_time: Whether it was by the signal that comes before the time limit.
    """

    def __init__(self, grace: float) -> None:
        self.asked = False
        self.out_of_time = False
        self._noticed = False
        self._grace = grace
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in (*TOLD, signal.SIGALRM)}
        signal.signal(signal.SIGALRM, self._end)
        for number in TOLD:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if number in TOLD else handler)

    def notice(self) -> bool:
        """Whether a stop was asked for, true at the first call only."""
        if not self.asked or self._noticed:
            return False
        self._noticed = True
        what = "the job's time is nearly over" if self.out_of_time else "SLURM ends the job"
        _say(f"{what}: stopping after this epoch")
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        self.out_of_time |= number == NUMBER
        if not self.asked:
            self.asked = True
            signal.setitimer(signal.ITIMER_REAL, self._grace)

    def _end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        raise KeyboardInterrupt


def bundles(tasks: Sequence[Task], execution: Execution, size: int, minutes: int, stop_before: int) -> list[Bundle]:
    """Divide tasks among jobs, `size` to each, in their order."""
    root = execution.store.root.resolve()
    absolute = [replace(task, folder=task.folder.resolve()) for task in tasks]
    data = execution.data_dir.resolve() if execution.data_dir else None
    own = replace(execution, store=type(execution.store)(root), data_dir=data, executor="local", slurm=None, wait=False)
    parts = [tuple(absolute[start : start + size]) for start in range(0, len(absolute), size)]
    return [Bundle(part, own, minutes, stop_before) for part in parts]


def _fitting(execution: Execution) -> Execution:
    """The same with no more cells at a time than the node's GPUs hold, which only the node knows."""
    held = cells_on(gpus_of(execution), execution)
    if not held or not execution.workers or execution.workers <= held:
        return execution
    _say(f"--workers {execution.workers} is lowered to {held}: the job's GPUs hold no more")
    return replace(execution, workers=held)


def _counts_as_running() -> bool:
    """Whether SLURM counts this job as running: not cancelled or out of time, whose processes get SIGTERM, too."""
    job = SlurmJobEnvironment().job_id
    return (ask({job}) or {}).get(job, Answer("")).state == "RUNNING"


def _ended(task: Task) -> bool:
    try:
        return has_ended(task.folder, task.failure)
    except UserError:  # damaged: nothing is run over it
        return True


def _epochs(task: Task) -> int:
    try:
        return len(read_history(task.folder))
    except UserError:
        return 0


def _say(line: str) -> None:
    """Add a line to the job's log."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
