"""What SLURM says: `squeue` of jobs that it knows, `sacct` of those that are gone, `scontrol` of the cluster."""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass

PATIENCE = 60  # seconds for SLURM's answer
PORTION = 500  # jobs or arrays of one question: an argument of a command has a greatest length
TASKS = re.compile(r"([0-9]+)_\[([0-9,:-]+)(?:%[0-9]+)?\]")  # `12_[0-3,7%2]`, waiting tasks of an array in one line


@dataclass(frozen=True)
class Answer:
    """What SLURM says of a job; `reason` is why it waits. Owner and name are "" where they are not said."""

    state: str
    reason: str = ""
    uid: str = ""
    name: str = ""


def ask(ids: Collection[str]) -> dict[str, Answer] | None:
    """What SLURM says of jobs by their ids, without those that it knows no more; None where it does not answer."""
    wanted = set(ids)
    queue = _lines("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%U|%j", ids=wanted)
    if queue is None:
        return None
    found = {}
    for job, state, reason, uid, name in (_fields(line, 5) for line in queue):
        if job in wanted:
            found[job] = Answer(state, reason if state == "PENDING" else "", uid, name)
    if gone := wanted - found.keys():
        columns = "JobID,State,UID,JobName"
        accounts = _lines("sacct", "--noheader", "--parsable2", "-X", "-o", columns, ids=gone) or []
        for tasks, state, uid, name in (_fields(line, 4) for line in accounts):
            of = Answer(state.partition(" ")[0], "", uid, name)  # `CANCELLED by 1000`
            found |= {job: of for job in _expanded(tasks) if job in gone and state}
    return found


def configuration() -> dict[str, str]:
    """Settings of the cluster, such as `ClusterName` and `MaxArraySize`; empty where it does not say them."""
    said = _output("scontrol", "show", "config") or ""
    pairs = (line.partition("=") for line in said.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _fields(line: str, count: int) -> list[str]:
    parts = [part.strip() for part in line.strip().split("|", count - 1)]
    return [*parts, *[""] * (count - len(parts))]


def _expanded(job: str) -> Iterator[str]:
    """`12_[0-2,6-8:2]` is tasks 0, 1, 2, 6 and 8 of job 12."""
    found = TASKS.fullmatch(job)
    if found is None:
        yield job
        return
    for part in found[2].split(","):
        bounds, _, step = part.partition(":")
        first, _, last = bounds.partition("-")
        yield from (f"{found[1]}_{task}" for task in range(int(first), int(last or first) + 1, int(step or 1)))


def _lines(command: str, *arguments: str, ids: Collection[str]) -> list[str] | None:
    """What a command says of jobs, asked by their arrays: thousands of tasks would not fit into an argument."""
    arrays = sorted({job.partition("_")[0] for job in ids}, key=int)
    lines: list[str] = []
    for start in range(0, len(arrays), PORTION):
        said = _output(command, *arguments, f"--jobs={','.join(arrays[start : start + PORTION])}")
        if said is None:
            return None
        lines += said.splitlines()
    return lines


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
