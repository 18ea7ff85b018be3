"""Published archives: verified by checksum before use, and downloaded so that nothing half-written remains."""

import hashlib
import os
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from filelock import FileLock

from dmlbench.data.family import Log
from dmlbench.errors import UserError

SCHEMES = ("https",)
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
LOG_EVERY_BYTES = 16 << 20


def verify(path: Path, sha256: str) -> None:
    """Raise UserError, naming the file, its size and both checksums, unless its contents are the published ones."""
    found = file_sha256(path)
    if found != sha256:
        raise UserError(
            f"{path}: expected sha256 {sha256}, found {found} in {path.stat().st_size} bytes",
            hint="the file is truncated or another release: delete it and download it again",
        )


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's contents; an unreadable file is a UserError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", hint="check its permissions") from error


def fetch(url: str, destination: Path, sha256: str, log: Log) -> None:
    """Download an archive unless the destination already holds it; only verified contents get the final name.

    Args:
        url: An https address.
        destination: Final path; its folder is made. Parallel callers wait for the first.
        sha256: Checksum the contents must have.
        log: Takes lines of progress.

    Raises:
        UserError: No connection, a refused or broken transfer, or other contents than expected.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"{url}: only {', '.join(SCHEMES)} addresses are fetched")
    manual = f"place {destination.name} (sha256 {sha256}) in {destination.parent}, or pass its folder as --data-dir"
    if _holds(destination, sha256):  # before the lock, which a read-only folder refuses
        return
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(destination.with_name(destination.name + ".lock")):
            if not _holds(destination, sha256):
                _download(url, destination, sha256, log)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the server's answer, with its connection
        raise UserError(f"cannot download {url} ({error})", hint=manual) from error


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def _download(url: str, destination: Path, sha256: str, log: Log) -> None:
    """Stream to a temporary name in the same folder; rename after checksum and fsync."""
    log(f"downloading {url}")
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=destination.name, suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            size = _stream(url, file, log)
        _check_download(url, temporary, size, sha256)
        temporary.replace(destination)
        log(f"saved {destination} ({size} bytes)")
    finally:
        temporary.unlink(missing_ok=True)


def _stream(url: str, file: IO[bytes], log: Log) -> int:
    size = 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - fetch() checks the scheme
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            if size // LOG_EVERY_BYTES != (size + len(chunk)) // LOG_EVERY_BYTES:
                log(f"{(size + len(chunk)) >> 20} MiB of {url}")
            size += len(chunk)
    file.flush()
    os.fsync(file.fileno())
    return size


def _check_download(url: str, temporary: Path, size: int, sha256: str) -> None:
    found = file_sha256(temporary)
    if found != sha256:
        raise UserError(
            f"{url}: expected sha256 {sha256}, received {found} in {size} bytes",
            hint="nothing was kept: try again, or download it by hand and pass its folder as --data-dir",
        )
