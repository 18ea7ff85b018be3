"""SLURM jobs that were given cells: `slurm/` of a results folder, a JSON file a submission, and what SLURM says.

SLURM forgets jobs that have ended, at once or after some minutes where it keeps no accounts. So what it said of a job
that ended before its cells did is written down, for a report that is made later or elsewhere.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from dmlbench.atomic import write_atomically
from dmlbench.errors import OnDamaged, UserError, attempt, sound, warn
from dmlbench.results.records import Digest, Name, StrictModel, Text, in_one_line, read_json

FOLDER = "slurm"
HINT = "move it elsewhere; jobs that it names run on"
PATIENCE = 60  # seconds for SLURM's answer
JobNumber = Annotated[str, Field(pattern=r"^[0-9]+(_[0-9]+)?$")]
UNKNOWN, FORGOTTEN = "UNKNOWN", "FORGOTTEN"  # no states of SLURM's
# Of a job that is over, in words. Any other state is of one that waits, runs or will be queued again.
ENDS = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "was cancelled",
    "COMPLETED": "ended before the cell did",
    "DEADLINE": "missed its deadline",
    "FAILED": "failed",
    "NODE_FAIL": "lost its node",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "was preempted and not queued again",
    "REVOKED": "was taken away",
    "TIMEOUT": "reached its time limit",
    FORGOTTEN: "is over, and SLURM does not know why any more",
}


class Submission(StrictModel):
    """One call of sbatch.

    Attributes:
        job: The id that SLURM gave.
        submitted: When, ISO 8601 in UTC.
        array: Whether it is an array, of which each task is a job of its own.
        tasks: Hashes of the cells of each task.
        ended: What SLURM said of a job that ended before its cells, by the job's id.
    """

    version: Literal[1] = 1
    job: JobNumber
    submitted: Name
    array: bool
    tasks: list[list[Digest]]
    ended: dict[JobNumber, Text] = Field(default_factory=dict)

    def ids(self) -> list[str]:
        """The id of each task's job."""
        return [f"{self.job}_{task}" if self.array else self.job for task in range(len(self.tasks))]


@dataclass(frozen=True)
class Job:
    """The job that a cell was last submitted with, and its state in SLURM's words: `PENDING`, `RUNNING`, `TIMEOUT`.

    The reason is SLURM's for letting it wait. The state is `UNKNOWN` where SLURM cannot be asked, and `FORGOTTEN` where
    it knows the job no more.
    """

    id: str
    state: str
    reason: str = ""
    log: Path = Path()

    @property
    def live(self) -> bool:
        """Whether it may still run the cell, as far as is known."""
        return self.state not in ENDS

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        if self.live:
            return f"SLURM job {self.id}: {self.state.lower()}{why}"
        return f"{self.cause}; log: {self.log}"

    @property
    def cause(self) -> str:
        """Why it is over, for people: `SLURM job 12_0 reached its time limit (TIMEOUT)`; "" while it is not."""
        said = "" if self.state == FORGOTTEN else f" ({self.state})"
        return "" if self.live else f"SLURM job {self.id} {ENDS[self.state]}{said}"


def record(root: Path, job_ids: list[str], tasks: list[list[str]]) -> Submission:
    """Write down a submission, one id for each task."""
    number, _, task = job_ids[0].partition("_")
    submitted = datetime.now(UTC).isoformat(timespec="seconds")
    made = Submission(job=number, submitted=submitted, array=bool(task), tasks=tasks)
    _write(root, made)
    return made


def submissions(root: Path, damaged: OnDamaged = warn) -> list[Submission]:
    """All submissions of a results folder, oldest first; `damaged` takes those that cannot be read."""
    read = sound((attempt(_read, path) for path in sorted((root / FOLDER).glob("*.json"))), damaged)
    return sorted(read, key=lambda own: (own.submitted, int(own.job)))


def jobs(root: Path, hashes: Collection[str], damaged: OnDamaged = warn) -> dict[str, Job]:
    """The job that each of these cells was last submitted with, of those that were; SLURM is asked about them once."""
    last = {
        cell: (own, job)
        for own in submissions(root, damaged)
        for job, cells in zip(own.ids(), own.tasks, strict=True)
        for cell in cells
        if cell in hashes
    }
    asked = _ask(sorted({job for _, job in last.values()})) if last else {}
    found: dict[str, Job] = {}
    for cell, (own, job) in last.items():
        state, reason = _state(job, own, asked)
        found[cell] = Job(job, state, reason, root / FOLDER / f"{job}_0_log.err")
    _remember(root, last.values(), found.values())
    return found


def _state(job: str, own: Submission, asked: Mapping[str, tuple[str, str]] | None) -> tuple[str, str]:
    """State and reason; what was written down counts where SLURM says nothing."""
    if asked and job in asked:
        return asked[job]
    if job in own.ended:
        return own.ended[job], ""
    return (UNKNOWN, "") if asked is None else (FORGOTTEN, "")


def _ask(ids: list[str]) -> dict[str, tuple[str, str]] | None:
    """State and reason of jobs by their ids, without those that SLURM knows no more; None where it does not answer."""
    queue = _output("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(ids)}", "--format=%i|%T|%r")
    if queue is None:
        return None
    found = {}
    for line in queue.splitlines():
        job, state, reason = (*line.strip().split("|", 2), "", "")[:3]
        found[job] = state, reason if state == "PENDING" else ""
    if gone := [job for job in ids if job not in found]:
        accounts = _output("sacct", "--noheader", "--parsable2", "-X", f"--jobs={','.join(gone)}", "-o", "JobID,State")
        for line in (accounts or "").splitlines():
            job, _, state = line.strip().partition("|")
            if job in gone and state:
                found[job] = state.split()[0], ""  # `CANCELLED by 1000`
    return found


def _output(command: str, *arguments: str) -> str | None:
    """What a command of SLURM prints; "" where it knows none of the jobs, None where it is not there or fails."""
    if shutil.which(command) is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - ids were checked to be numbers
            [command, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return "" if re.search("[Ii]nvalid job id", done.stderr) else None
    return done.stdout


def _remember(root: Path, last: Collection[tuple[Submission, str]], found: Collection[Job]) -> None:
    """Write down why jobs ended, where that is news and the folder can be written."""
    states = {job.id: job.state for job in found if job.state in ENDS and job.state != FORGOTTEN}
    for own in {own.job: own for own, _ in last}.values():
        news = {job: states[job] for job in own.ids() if job in states and own.ended.get(job) != states[job]}
        if news:
            with suppress(OSError):
                _write(root, own.model_copy(update={"ended": own.ended | news}))


def _read(path: Path) -> Submission:
    content = read_json(path, "a submission", HINT)
    try:
        return Submission.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: not a submission ({in_one_line(error)})", hint=HINT) from error


def _write(root: Path, own: Submission) -> None:
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    write_atomically(root / FOLDER / f"{own.job}.json", own.model_dump_json(indent=1) + "\n")
