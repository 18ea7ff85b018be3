"""SLURM jobs that were given cells: `slurm/` of a results folder, a JSON file a submission, and what SLURM says.

SLURM forgets jobs that have ended, at once or after some minutes where it keeps no accounts. So what it said of a job
that ended before its cells did is written down, for a report that is made later or elsewhere.
"""

import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from dmlbench.atomic import write_atomically
from dmlbench.errors import Damaged, OnDamaged, UserError, attempt, sound, warn
from dmlbench.results.records import Digest, Name, StrictModel, Text, in_one_line, read_json
from dmlbench.results.slurm_queue import Answer, ask, configuration

FOLDER = "slurm"
HINT = "move it elsewhere; jobs that it names run on"
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

    SLURM uses ids again, and other clusters have the same: a job is known by its owner, name and cluster, too. They are
    empty where they are not known, as in records of earlier releases.

    Attributes:
        job: The id that SLURM gave.
        uid: The number of the user who submitted it.
        name: The job's name.
        cluster: The cluster's name.
        submitted: When, ISO 8601 in UTC.
        array: Whether it is an array, of which each task is a job of its own.
        tasks: Hashes of the cells of each task.
        ended: What SLURM said of a job that ended before its cells, by the job's id.
    """

    version: Literal[1] = 1
    job: JobNumber
    uid: str = ""
    name: str = ""
    cluster: str = ""
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

    The reason is SLURM's for letting it wait, or why it cannot be asked. The state is `UNKNOWN` where SLURM cannot be
    asked, and `FORGOTTEN` where it knows the job no more.
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
        return f"{self.cause}; log: {self.log}" if self.log.is_file() else self.cause

    @property
    def cause(self) -> str:
        """Why it is over, for people: `SLURM job 12_0 reached its time limit (TIMEOUT)`; "" while it is not."""
        said = "" if self.state == FORGOTTEN else f" ({self.state})"
        return "" if self.live else f"SLURM job {self.id} {ENDS[self.state]}{said}"


@dataclass(frozen=True)
class _Recorded:
    """A submission and its file. One whose id SLURM has given again since is `superseded`, and can be asked no more."""

    path: Path
    own: Submission
    superseded: bool = False


class Jobs:
    """Looks up jobs of results folders, and keeps what it had to leave out.

    Args:
        seconds: Within this time SLURM is not asked again, and the last answer counts.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._known: dict[Path, tuple[float, dict[str, Job], list[Damaged]]] = {}

    def __call__(self, root: Path, hashes: Collection[str]) -> Mapping[str, Job]:
        """As `jobs`."""
        known = self._known.get(root)
        if known is None or time.monotonic() - known[0] >= self._seconds:
            damaged: list[Damaged] = []
            found = jobs(root, hashes, damaged.append)
            known = self._known[root] = (time.monotonic(), found, damaged)
        return known[1]

    @property
    def left_out(self) -> list[Damaged]:
        """Submissions that could not be read."""
        return [damaged for _, _, left_out in self._known.values() for damaged in left_out]


def record(root: Path, job_ids: list[str], tasks: list[list[str]], name: str = "") -> Submission:
    """Write down a submission of this user, one id for each task; an earlier one of the same id stays."""
    number, _, task = job_ids[0].partition("_")
    submitted = datetime.now(UTC).isoformat(timespec="seconds")
    cluster = configuration().get("ClusterName", "")
    uid = str(os.getuid())
    made = Submission(
        job=number, uid=uid, name=name, cluster=cluster, submitted=submitted, array=bool(task), tasks=tasks
    )
    path, again = root / FOLDER / f"{number}.json", 1
    while path.exists():
        again += 1
        path = path.with_name(f"{number}-{again}.json")
    _write(path, made)
    return made


def submissions(root: Path, damaged: OnDamaged = warn) -> list[Submission]:
    """All submissions of a results folder, oldest first; `damaged` takes those that cannot be read."""
    return [one.own for one in _recorded(root, damaged)]


def _recorded(root: Path, damaged: OnDamaged) -> list[_Recorded]:
    found = list(sound((attempt(_read, path) for path in sorted((root / FOLDER).glob("*.json"))), damaged))
    found.sort(key=lambda one: (one.own.submitted, int(one.own.job)))
    latest = {one.own.job: one.path for one in found}
    return [replace(one, superseded=latest[one.own.job] != one.path) for one in found]


def jobs(root: Path, hashes: Collection[str], damaged: OnDamaged = warn) -> dict[str, Job]:
    """The job that each of these cells was last submitted with, of those that were; SLURM is asked about them once."""
    last = {
        cell: (one, job)
        for one in _recorded(root, damaged)
        for job, cells in zip(one.own.ids(), one.own.tasks, strict=True)
        for cell in cells
        if cell in hashes
    }
    if not last:
        return {}
    here = configuration().get("ClusterName", "") if any(one.own.cluster for one, _ in last.values()) else ""
    asked = ask({job for one, job in last.values() if not one.superseded and not _elsewhere(one.own, here)})
    found: dict[str, Job] = {}
    for cell, (one, job) in last.items():
        state, reason = _state(job, one, asked, here)
        found[cell] = Job(job, state, reason, root / FOLDER / f"{job}_0_log.err")
    _remember(last.values(), found)
    return found


def _elsewhere(own: Submission, here: str) -> bool:
    """Whether a submission is known to be another cluster's."""
    return bool(own.cluster and here) and own.cluster != here


def _state(job: str, one: _Recorded, asked: Mapping[str, Answer] | None, here: str) -> tuple[str, str]:
    """State and reason; what was written down counts where SLURM says nothing of this job."""
    own = one.own
    elsewhere = _elsewhere(own, here)
    said = None if one.superseded or elsewhere or asked is None else asked.get(job)
    if said and said.uid in ("", own.uid or said.uid) and said.name in ("", own.name or said.name):
        return said.state, said.reason
    if job in own.ended:
        return own.ended[job], ""
    if elsewhere:
        return UNKNOWN, f"of cluster {own.cluster}, and this is {here}"
    return (UNKNOWN, "") if asked is None and not one.superseded else (FORGOTTEN, "")


def _remember(last: Collection[tuple[_Recorded, str]], found: Mapping[str, Job]) -> None:
    """Write down why jobs ended, where that is news and the folder can be written."""
    states: dict[Path, dict[str, str]] = {}
    for (one, _), job in zip(last, found.values(), strict=True):
        if job.state in ENDS and job.state != FORGOTTEN and one.own.ended.get(job.id) != job.state:
            states.setdefault(one.path, {})[job.id] = job.state
    for path, own in {one.path: one.own for one, _ in last}.items():
        if path in states:
            with suppress(OSError):
                _write(path, own.model_copy(update={"ended": own.ended | states[path]}))


def _read(path: Path) -> _Recorded:
    content = read_json(path, "a submission", HINT)
    try:
        return _Recorded(path, Submission.model_validate(content))
    except ValidationError as error:
        raise UserError(f"{path}: not a submission ({in_one_line(error)})", hint=HINT) from error


def _write(path: Path, own: Submission) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, own.model_dump_json(indent=1) + "\n")
