"""What this process may use of the machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CUDA = """
import torch
for index in range(torch.cuda.device_count()):
    torch.zeros(1, device=f"cuda:{index}")
"""
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Processor cores that this process may run on.

    A quota of processor time, as containers have one, counts too, and so does what SLURM gave the job: not every
    cluster binds jobs to their cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    cores = min(cores, int(given)) if given.isdecimal() and int(given) else cores
    quota = processor_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def processor_quota(own_groups: Path = OWN_GROUPS, groups: Path = GROUPS) -> float | None:
    """How many cores' time Linux gives this process's control group (version 1 or 2), or one above; None: no limit."""
    quotas: list[float] = []
    for folder in _folders(own_groups, groups):
        with suppress(OSError, ValueError):  # a file that is not there, or says "max"
            quota, period = _limit(folder)
            quotas += [quota / period] if quota > 0 and period > 0 else []
    return min(quotas, default=None)


def cuda_failure() -> str | None:
    """Why a GPU that torch counts cannot be used, in torch's words; None where all can.

    An old driver, for one, counts its devices and starts none. It is tried in a process of its own, which takes
    seconds: here it would hold memory of each GPU, and keep forked processes from using any.
    """
    done = subprocess.run([sys.executable, "-c", CUDA], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 0:
        return None
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    reason = next((line for line in said if "Error: " in line), said[-1] if said else "")
    return reason.partition("Error: ")[2] or reason or f"exit code {done.returncode}"


def shared_memory() -> int | None:
    """Free bytes of the memory that processes share, which a container may have little of; None where none is seen."""
    folder = Path("/dev/shm")  # noqa: S108 - only looked at
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def _folders(own_groups: Path, groups: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, from its own up to the root."""
    try:
        lines = own_groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        hierarchies = (groups / controllers, groups / "cpu") if controllers else (groups, groups / "unified")
        for hierarchy in hierarchies:
            own = hierarchy / path.lstrip("/")  # in a container perhaps a path of the host: the root is its own then
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(hierarchy))


def _limit(folder: Path) -> tuple[float, float]:
    """Microseconds of processor time, and in how many of the clock."""
    if (folder / "cpu.max").is_file():
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return float(quota), float(period)
    files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    quota, period = ((folder / name).read_text(encoding="ascii") for name in files)
    return float(quota), float(period)
