"""Gives cells to SLURM as an array of jobs, by submitit, and follows them in the results folder.

The jobs write the results folder themselves, so this process may end once they are submitted. submitit keeps its own
files, the jobs' scripts and logs among them, in the folder `slurm` of the results.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from dmlbench.errors import OnDamaged, UserError, attempt, counted, inflected, one_line, warn
from dmlbench.results.events import Epoch, Finished, Halted, Started, failure
from dmlbench.results.history import Row, read_history
from dmlbench.results.locks import holder
from dmlbench.results.slurm_queue import configuration
from dmlbench.results.store import Record, ended_at, read_record
from dmlbench.results.submissions import FOLDER, FORGOTTEN, UNKNOWN, Job, Submission, jobs, record
from dmlbench.runner.execution import Execution, cells_on
from dmlbench.runner.matrix import tasks
from dmlbench.runner.signals import Interrupts
from dmlbench.runner.tasks import OnEvent, Task
from dmlbench.specs.cell import Cell
from dmlbench.specs.slurm import SlurmSettings

if TYPE_CHECKING:
    from submitit import SlurmExecutor

GLANCE = 1.0  # seconds between looks at the results
ASK = 10.0  # seconds between questions to SLURM
NOBODY = Job("", FORGOTTEN)  # of a cell whose submission was damaged or taken away since
OFTEN = 10_000  # times that a job is queued again: whether it gets anywhere is what ends it


def check_slurm(execution: Execution) -> None:
    """Raise UserError where jobs cannot be submitted from this machine, or would not hold the `workers` asked for."""
    if find_spec("submitit") is None:
        raise UserError("--executor slurm: submitit is not installed", hint="pip install 'dmlbench[slurm]'")
    for name in ("sbatch", "srun", "squeue"):
        if shutil.which(name) is None:
            hint = "run it on the cluster's login node"
            raise UserError(f"--executor slurm: {name} is not on this machine", hint=hint)
    root = execution.store.root.resolve()
    if found := re.search(r"[%\\]", str(root)):
        what = f"--results {root}: {found[0]} has a meaning of its own in the paths of SLURM's logs"
        raise UserError(what, hint="name another folder")
    _check_workers(execution, _settings(execution))


def _check_workers(execution: Execution, settings: SlurmSettings) -> None:
    workers, together = execution.workers, execution.gpus_per_cell
    if execution.per_gpu > 1 and not settings.gpus:
        raise UserError(f"--per-gpu {execution.per_gpu}: a job asks for no GPU", hint="--slurm gres=gpu:1")
    if execution.per_gpu > 1 and settings.cells_per_job == 1:
        what = f"--per-gpu {execution.per_gpu}: a job has 1 cell"
        raise UserError(what, hint=f"--slurm cells_per_job={execution.per_gpu}")
    if not workers:
        return
    if workers > settings.cells_per_job:
        what = f"--workers {workers}: counts within a job, which has {counted(settings.cells_per_job, 'cell')}"
        raise UserError(what, hint=f"--slurm cells_per_job={workers}; --slurm jobs_at_a_time=N limits jobs")
    slots = cells_on(settings.gpus, execution)
    if settings.gpus and workers > slots:
        how = f"--gpus-per-cell {together}" if together > 1 else f"--per-gpu {execution.per_gpu}"
        what = f"--workers {workers}: {counted(settings.gpus, 'GPU')} of a job with {how} hold {slots}"
        hint = f"--per-gpu {-(-workers // settings.gpus)} makes them share"
        raise UserError(what, hint=f"--slurm gres=gpu:{workers * together}" if together > 1 else hint)


def held(cells: Sequence[Cell], root: Path, damaged: OnDamaged = warn) -> dict[str, Job]:
    """The jobs that still wait or run, by the cells they were given; `damaged` takes submissions that cannot be read.

    Raises:
        UserError: where SLURM does not answer, so that a cell could be given to a second job.
    """
    found = jobs(root, {cell.hash for cell in cells}, damaged)
    if silent := next((job for job in found.values() if job.state == UNKNOWN), None):
        why = f" ({silent.reason})" if silent.reason else ""
        hint = "run it on that cluster, or into another --results" if why else "try again when `squeue` answers"
        what = f"--executor slurm: squeue does not say whether job {silent.id}{why} still has cells of this run"
        raise UserError(what, hint=hint)
    return {cell: job for cell, job in found.items() if job.live}


def submit(
    cells: Sequence[Cell], execution: Execution, damaged: OnDamaged = warn
) -> tuple[Submission | None, dict[str, Job]]:
    """Submit the cells that no waiting or running job has; `damaged` takes submissions that cannot be read.

    Returns:
        The submission, None where every cell is held; and the jobs that hold some.

    Raises:
        UserError: where SLURM refuses the jobs, or does not answer.
    """
    root = execution.store.root
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with FileLock(root / FOLDER / ".lock"):  # two runs at once would each find no job that has the cell
        theirs = held(cells, root, damaged)
        own = [task for task in tasks(cells, execution.store) if task.cell.hash not in theirs]
        if not own:
            return None, theirs
        given = _bundles(own, execution)
        _check_array(len(given), _settings(execution))
        executor = _executor(root, _settings(execution), len(given))
        with _outside_jobs():
            ids = _sbatch(executor, given)
        cells_of = [[task.cell.hash for task in bundle.tasks] for bundle in given]
        return record(root, ids, cells_of, str(executor.parameters["job_name"])), theirs


def dry_run(cells: Sequence[Cell], execution: Execution, damaged: OnDamaged = warn) -> tuple[str, dict[str, Job]]:
    """What `submit` would give to sbatch, "" where every cell is held; and the jobs that hold some.

    Raises:
        UserError: as `submit` does before it calls sbatch.
    """
    theirs = held(cells, execution.store.root, damaged)
    own = [cell for cell in cells if cell.hash not in theirs]
    if not own:
        return "", theirs
    given = _bundles(tasks(own, execution.store), execution)
    _check_array(len(given), _settings(execution))
    executor = _executor(execution.store.root, _settings(execution), len(given))
    if len(given) > 1:
        executor.parameters["map_count"] = len(given)
    return executor._make_submission_file_text(executor._submitit_command_str, ""), theirs


def _check_array(count: int, settings: SlurmSettings) -> None:
    """Raise UserError where the jobs are more than an array of this cluster holds."""
    said = configuration().get("MaxArraySize", "")
    most = int(said) if said.isdecimal() else count
    if count > max(most, 1):
        needed = -(-count * settings.cells_per_job // max(most, 1))
        what = f"--executor slurm: {count} jobs, and an array of this cluster holds {most} (MaxArraySize)"
        raise UserError(what, hint=f"--slurm cells_per_job={needed}, or fewer cells a run")


def not_again(theirs: Mapping[str, Job]) -> list[str]:
    """A line for the user where jobs hold cells."""
    if not theirs:
        return []
    some = ", ".join(sorted({job.id for job in theirs.values()})[:3])
    many = f"{counted(len(theirs), 'cell')} {inflected(len(theirs), 'is', 'are')}"
    them = "it" if len(theirs) == 1 else "them"
    again = f"not submitted again: they keep the settings they were given, `scancel` ends {them} first"
    return [f"{many} in SLURM jobs that wait or run ({some}), {again}"]


def in_hours(minutes: int) -> str:
    """`90` is `1 h 30 min`."""
    hours, rest = divmod(minutes, 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{rest} min" if rest else "")))


def submitted(made: Submission | None, theirs: Mapping[str, Job], execution: Execution) -> list[str]:
    """Lines for the user: what was submitted, and how to follow it."""
    root, minutes = execution.store.root, _settings(execution).time
    lines = not_again(theirs)
    if made is None:
        return lines
    cells, given = sum(map(len, made.tasks)), counted(len(made.tasks), "job")
    ids = made.ids()
    which = f"{ids[0]} to {ids[-1]}" if len(ids) > 1 else ids[0]
    at = shlex.quote(str(root))
    return [
        *lines,
        f"submitted {counted(cells, 'cell')} to SLURM in {given}: {which}; a job may take {in_hours(minutes)}",
        f"their logs are in {root / FOLDER}",
        f"they run without this process: `dmlbench status --results {at}` shows them, `scancel {made.job}` ends them",
    ]


def _bundles(own: Sequence[Task], execution: Execution) -> list[Any]:
    from dmlbench.runner.slurm_job import bundles

    settings = _settings(execution)
    return list(bundles(own, execution, settings.cells_per_job, settings.time, settings.stop_before))


def _settings(execution: Execution) -> SlurmSettings:
    assert execution.slurm is not None  # noqa: S101 - the executor's own settings
    return execution.slurm


def _executor(root: Path, settings: SlurmSettings, count: int) -> "SlurmExecutor":
    from submitit import SlurmExecutor

    python = f"{shlex.quote(sys.executable)} -P"  # a job's working folder holds no modules of its own
    executor = SlurmExecutor(folder=(root / FOLDER).resolve(), max_num_timeout=OFTEN, python=python)
    more = {name.replace("-", "_"): value for name, value in settings.options.items()}
    more |= {"mem": settings.memory} if settings.memory else {}
    executor.update_parameters(
        job_name=str(more.pop("job_name", "dmlbench")),
        time=settings.time,
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        gres=settings.gres,
        cpus_per_task=settings.cores,
        # SLURM 22.05 and later no longer pass the cores of a job on to what it starts.
        srun_args=[f"--cpus-per-task={settings.cores}"],
        setup=["set -e", *settings.setup, "set +e"] if settings.setup else None,  # a line that fails ends the job
        signal_delay_s=settings.stop_before,
        array_parallelism=settings.jobs_at_a_time or count,
        wckey=None,
        additional_parameters=more | {"requeue": True},
    )
    return executor


def _sbatch(executor: "SlurmExecutor", given: Sequence[Any]) -> list[str]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = Path(executor.folder)
    before = {*folder.iterdir()}
    try:
        with redirect_stderr(io.StringIO()):  # submitit repeats what sbatch says, which the error has
            return [job.job_id for job in executor.submit_array(given)]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        for left in {*folder.iterdir()} - before:  # what submitit had ready for the jobs
            left.unlink(missing_ok=True)
        raise _refusal(str(error)) from error


def _refusal(said: str) -> UserError:
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith(("sbatch:", "allocation failure:"))]
    why = lines[-1].removeprefix("sbatch: ") if lines else said
    hint = "`dmlbench run ... --dry-run` prints the script, and --slurm sets what it asks for"
    return UserError(f"--executor slurm: sbatch refuses the jobs ({one_line(why, 300)})", hint=hint)


def check_script(script: str) -> None:
    """Raise UserError where sbatch, which submits nothing here, would refuse a script."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        with _outside_jobs():
            command = ["sbatch", "--test-only", file.name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise _refusal(done.stderr or done.stdout)


@contextmanager
def _outside_jobs() -> Iterator[None]:
    """Hide the job that this process may run in: what it asked for would be passed on to the new ones."""
    inside = {name: os.environ[name] for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"}
    for name in inside:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(inside)


@dataclass
class _Followed:
    """A cell that jobs are at, and how many rows of its history were passed on."""

    task: Task
    seen: int
    begun: bool = False
    lost: int = 0


def follow(own: Sequence[Task], root: Path, *, on_event: OnEvent, interrupts: Interrupts) -> None:
    """Report what the results folder says of cells until each has ended, or its job has.

    A stop that is asked for ends this, and no job.
    """
    open_ = [_Followed(task, len(_history(task))) for task in own]
    asked = -ASK
    while open_:
        if interrupts.asked:
            return
        again = time.monotonic() - asked >= ASK
        states = jobs(root, {one.task.cell.hash for one in open_}, lambda _: None) if again else {}
        asked = time.monotonic() if again else asked
        nobody = NOBODY if again else None
        open_ = [one for one in open_ if not _look(one, states.get(one.task.cell.hash, nobody), on_event)]
        if open_:
            time.sleep(GLANCE)


def _look(one: _Followed, job: Job | None, on_event: OnEvent) -> bool:
    """Pass on what is new of a cell; whether that was the last of it."""
    task = one.task
    rows = _history(task)
    if not one.begun and (len(rows) > one.seen or holder(task.folder)):
        one.begun = True
        on_event(task, Started())
    for row in rows[one.seen :]:
        on_event(task, Epoch(int(row["epoch"] or 0), task.cell.protocol.training.epochs, row))
    one.seen = max(one.seen, len(rows))
    result = read_record(task.folder)
    if isinstance(result, Record) and (result.done or ended_at(task.folder) != task.failure):
        on_event(task, Finished(result.summary.error))
        return True
    if job is None or job.live:
        one.lost = 0 if job else one.lost
        return False
    one.lost += 1
    if one.lost < 2:  # a network file system may show the result a little later
        return False
    cause = str(job) if job.id else "no submission that can be read names its SLURM job; see `dmlbench status`"
    on_event(task, Halted(failure("died", "JobEnded", cause)))
    return True


def _history(task: Task) -> list[Row]:
    rows = attempt(read_history, task.folder)
    return rows if isinstance(rows, list) else []
