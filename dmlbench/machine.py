"""What this process may use of the machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

CUDA = """
import sys, torch
for device in sys.argv[1:]:
    try:
        torch.zeros(1, device=device)
    except Exception as error:
        sys.exit(f"{device}: {error}")
"""
PATIENCE_SECONDS = 120.0  # a driver that hangs answers never
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


def cuda_failure(devices: Collection[str]) -> str | None:
    """Why a GPU, such as `cuda:0`, cannot be used, in torch's words; None where all of these can.

    An old driver, for one, counts its devices and starts none. It is tried in a process of its own, which takes
    seconds: here it would hold memory of each GPU, and keep forked processes from using any.
    """
    command = [sys.executable, "-P", "-c", CUDA, *sorted(devices)]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {PATIENCE_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return next((line for line in said if line.startswith("cuda")), f"exit code {done.returncode}")


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
