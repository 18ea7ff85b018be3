"""Which process runs a cell: known by a lock among the processes of one host, and by a heartbeat between hosts.

A lock dies with its process, so on one host the claim of a dead owner is free at once. Hosts that share a file system
cannot trust its locks (some do not pass them on, some keep those of a machine that is gone), so between them the file
`.claim` decides, created by one host alone and touched every `BEAT` seconds while its owner lives. A claim that looks
abandoned is watched before it is taken: clocks jump, and machines wake from sleep.

filelock's own locks with a heartbeat (4.3) do not do this. `SoftReadWriteLock` needs hard links, and makes a restart
wait for the lease of a process of this host that was killed. `SoftFileLease` never takes over a claim whose owner was
killed before it wrote its name, nor any on a file system that cannot exchange two names in one step, as NFS.
"""

import errno
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

BEAT = 10.0  # seconds between heartbeats
LEASE = 60.0  # a claim touched within this time is alive
WATCH = 30.0  # how long a claim must be untouched before it is taken over
NAME = ".claim"
ATTEMPTS, PAUSE = 10, 0.2  # looks at a claim that changes hands, and seconds between them


class LostClaimError(RuntimeError):
    """Another host took the claim over, because this process seemed dead: it may not write any more."""


@dataclass(frozen=True)
class Owner:
    """Who claims: a host by a key that no two running systems share, its name for people, and the process."""

    host: str
    name: str
    pid: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass
class Claim:
    """A claim that is held; `check` before every write."""

    path: Path
    owner: Owner

    def check(self) -> None:
        """Raise LostClaimError where another host has taken over."""
        if read_owner(self.path.parent) != self.owner:
            raise LostClaimError(f"another process has taken over {self.path.parent}, for this one seemed dead")

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Touch the claim every `BEAT` seconds from a thread, and remove it at the end."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):
                if read_owner(self.path.parent) == self.owner:
                    self.path.unlink(missing_ok=True)

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):  # a full disk or a lost network may be back at the next beat
                if read_owner(self.path.parent) == self.owner:
                    os.utime(self.path)


@cache
def this_host() -> tuple[str, str]:
    """Key and name of this host. Containers of one kernel share the boot's id, as they share its locks."""
    try:
        key = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        key = f"{platform.node()}-{uuid.getnode():x}"
    return key, platform.node()


@contextmanager
def claim(folder: Path, host: tuple[str, str] | None = None) -> Iterator[Claim | None]:
    """Hold the claim of a folder, made where it is missing; yields None where another process has it."""
    key, name = host or this_host()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_path(folder, key), timeout=1.0)
    try:
        lock.acquire()
    except Timeout:
        yield None
        return
    try:
        held = _take(folder, Owner(key, name, os.getpid()))
        with held.beating() if held else nullcontext():
            yield held
    finally:
        if (folder / "summary.json").is_file():  # a result is not run again, so nobody waits for its lock
            _lock_path(folder, key).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> Owner | None:
    """The process that runs the cell, as far as is known without touching the folder; None for nobody."""
    try:
        owner = read_owner(folder)
    except OSError:
        return None
    if owner is None:
        return None
    if owner.host == this_host()[0]:
        return owner if _is_locked(_lock_path(folder, owner.host)) else None
    try:
        age = time.time() - (folder / NAME).stat().st_mtime
    except OSError:
        return None
    return owner if abs(age) <= LEASE else None  # one of the future was left by a clock that is ahead


def read_owner(folder: Path) -> Owner | None:
    """Whom the claim names, alive or not; None where there is no claim, or a damaged one.

    Raises:
        OSError: where it cannot be read: that says nothing of whose it is.
    """
    try:
        return Owner(**json.loads((folder / NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def _take(folder: Path, owner: Owner) -> Claim | None:
    path = folder / NAME
    for _ in range(ATTEMPTS):
        if _create(path, owner):
            _sweep(folder)
            return Claim(path, owner)
        other, judged = read_owner(folder), _touched(path)
        # On this host the lock is ours, so the process that claimed it is dead.
        if (other is None or other.host != owner.host) and not _is_still(path, owner):
            return None
        if not _bury(path, other, judged, owner):
            time.sleep(PAUSE)
    return None


def _sweep(folder: Path) -> None:
    """Remove the drafts of writers that were killed; specs are written by planners, who claim nothing."""
    for draft in folder.glob(".*.tmp"):
        if not draft.name.startswith(".spec.yaml."):
            draft.unlink(missing_ok=True)


def _create(path: Path, owner: Owner) -> bool:
    """Create the claim with its content in one step, which succeeds for one host alone."""
    draft = path.with_name(f"{NAME}-{owner.token}.tmp")
    draft.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    try:
        os.link(draft, path)
    except (FileExistsError, FileNotFoundError):  # claimed; or the draft was swept away by who has just claimed
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        return _create_exclusively(path, owner)  # a file system without hard links
    finally:
        draft.unlink(missing_ok=True)
    return True


def _create_exclusively(path: Path, owner: Owner) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(owner)))
    except FileExistsError:
        return False
    return True


def _bury(path: Path, dead: Owner | None, touched: int | None, owner: Owner) -> bool:
    """Remove a dead owner's claim, one host at a time: another may have done so, and claimed, since it was judged.

    Returns whether it was this process's turn.
    """
    turn = path.with_name(f"{NAME}-turn")
    try:
        with turn.open("x", encoding="utf-8") as file:
            file.write(owner.host)
    except FileExistsError:
        with suppress(OSError):
            # On this host the lock is ours, so the process whose turn it was has been killed.
            if turn.read_text(encoding="utf-8") == owner.host or not _is_fresh(turn, owner):
                turn.unlink()
        return False
    try:
        if (read_owner(path.parent), _touched(path)) == (dead, touched):
            path.unlink(missing_ok=True)
    finally:
        turn.unlink(missing_ok=True)
    return True


def _is_still(path: Path, owner: Owner) -> bool:
    """Whether a claim has not been touched for so long that its owner must be dead."""
    if _is_fresh(path, owner):
        return False
    first, deadline = _touched(path), time.monotonic() + WATCH
    while time.monotonic() < deadline:
        time.sleep(min(1.0, WATCH / 10))
        if _touched(path) != first:
            return False
    return True


def _is_fresh(path: Path, owner: Owner) -> bool:
    """Whether a file was touched within the lease, both times by the file system's clock; so is one that has gone."""
    probe = path.with_name(f".now-{owner.token}.tmp")
    try:
        probe.touch()
        now, touched = probe.stat().st_mtime_ns, _touched(path)
    except FileNotFoundError:
        return True
    finally:
        probe.unlink(missing_ok=True)
    return touched is None or abs(now - touched) <= LEASE * 1e9


def _touched(path: Path) -> int | None:
    """When the claim was last touched; opened first, for network file systems look anew only then."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _lock_path(folder: Path, host: str) -> Path:
    return folder / f".lock-{host[:8]}"


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    lock = FileLock(path, timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True
    except OSError:  # results that may only be read
        return False
