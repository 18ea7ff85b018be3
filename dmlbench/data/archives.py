"""Published archives: verified by checksum before use, and downloaded so that a broken transfer goes on later."""

import hashlib
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from filelock import FileLock

from dmlbench.data.cache import cache_dir
from dmlbench.data.family import Log
from dmlbench.errors import UserError

SCHEMES = ("https", "http")  # a checksum, not the connection, vouches for the contents
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
REPORTED_SHARE = 0.05

LARGEST = 8 << 30  # bytes of an archive whose size was not published
MARGIN = 1.1  # sizes are published in two digits

Progress = Callable[[int, int], None]  # bytes there, bytes in all (0: unknown)


@dataclass(frozen=True)
class _Source:
    """What is downloaded: from where, with which checksum, and how many bytes it may have."""

    url: str
    checksum: str
    most: int


class NetworkError(Exception):
    """The connection's fault, not the disk's: both raise OSError."""


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        name: Its file name.
        url: Where it is published.
        checksum: ``algorithm:hexadecimal digest`` of its contents.
        folder: The folder in it that holds the dataset.
        gibibytes: Its published size.
        largest: Bytes that it may hold unpacked.
    """

    name: str
    url: str
    checksum: str
    folder: str
    gibibytes: float
    largest: int = LARGEST

    @property
    def size(self) -> str:
        """Its size for people."""
        return f"{self.gibibytes:.1f} GiB"

    @property
    def most(self) -> int:
        """Bytes that it may have."""
        return int(MARGIN * self.gibibytes * 2**30)


def verify(path: Path, checksum: str) -> None:
    """Raise UserError, naming the file, its size and both checksums, unless its contents are the published ones."""
    found = file_checksum(path, checksum)
    if found != checksum:
        raise UserError(
            f"{path}: expected {checksum}, found {found} in {path.stat().st_size} bytes",
            hint="the file is truncated or another release: delete it and download it again",
        )


def file_checksum(path: Path, like: str = "sha256:") -> str:
    """The checksum of a file's contents by the algorithm of another; an unreadable file is a UserError."""
    algorithm = like.partition(":")[0]
    try:
        with path.open("rb") as file:
            return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", hint="check its permissions") from error


def fetch(
    url: str, destination: Path, checksum: str, log: Log, progress: Progress | None = None, *, most: int = LARGEST
) -> None:
    """Download an archive unless the destination already holds it; only verified contents get the final name.

    What a broken transfer brought stays beside the destination, hidden, and the next call goes on from there.

    Args:
        url: An http or https address.
        destination: Final path; its folder is made. Parallel callers wait for the first.
        checksum: What the contents must have, e.g. ``md5:...``.
        log: Takes lines of progress.
        progress: Takes the bytes so far; by default lines go to `log`.
        most: Bytes that it may have: a server need not say how many it sends, and could send for ever.

    Raises:
        UserError: No connection, a refused or broken transfer, one that is too large, or other contents than expected.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"{url}: only {', '.join(SCHEMES)} addresses are fetched")
    manual = f"place {destination.name} ({checksum}) in {destination.parent}, or pass its folder as --data-dir"
    if _holds(destination, checksum):  # before the lock, which a read-only folder refuses
        return
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(destination.with_name(destination.name + ".lock")):
            if not _holds(destination, checksum):
                _download(_Source(url, checksum, most), destination, log, progress or _lines(url, log))
    except NetworkError as error:
        raise UserError(f"cannot download {url} ({error})", hint=manual) from error
    except OSError as error:
        raise UserError(f"{error.filename or destination}: cannot be written ({error.strerror})") from error


def _holds(path: Path, checksum: str) -> bool:
    return path.is_file() and file_checksum(path, checksum) == checksum


def _download(source: _Source, destination: Path, log: Log, progress: Progress) -> None:
    """Append to the partial file; rename it after checksum and fsync."""
    url, checksum = source.url, source.checksum
    partial = destination.with_name(f".{destination.name}.dmlbench.part")  # NAME.part may be a browser's
    if destination.exists():
        if not destination.absolute().is_relative_to(cache_dir().absolute()):  # somebody's own
            hint = "move it away, and the same command downloads the published one"
            raise UserError(f"{destination}: is not the published file, and is not replaced", hint=hint)
        log(f"{destination} is not the published file, or damaged: it will be replaced")
    log(f"downloading {url} to {destination.parent}")
    try:
        with partial.open("ab") as file:
            expected = _receive(url, file, source.most, log, progress)
            file.flush()
            os.fsync(file.fileno())
    finally:
        size = partial.stat().st_size
        if not size:
            partial.unlink()
    if max(size, expected) > source.most:
        partial.unlink(missing_ok=True)
        sent = f"{expected} bytes" if expected > source.most else f"more than {source.most} bytes"
        hint = "nothing was kept: download it by hand, and pass its folder as --data-dir"
        raise UserError(f"{url}: the server sends {sent}, and the published file is smaller", hint=hint)
    if not size:
        raise UserError(f"{url}: the server sends nothing", hint="try again later")
    if size < expected:
        hint = "what came is kept: the same command goes on from there"
        raise UserError(f"{url}: the transfer broke after {size} of {expected} bytes", hint=hint)
    found = file_checksum(partial, checksum)
    if found != checksum:
        partial.unlink()
        hint = "nothing was kept: try again, or download it by hand and pass its folder as --data-dir"
        raise UserError(f"{url}: expected {checksum}, received {found} in {size} bytes", hint=hint)
    partial.replace(destination)
    log(f"saved {destination} ({size} bytes)")


def _receive(url: str, file: IO[bytes], most: int, log: Log, progress: Progress) -> int:
    """Append what is missing of `url` to `file`, up to what is too much; returns the size it should have, 0: untold."""
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310 - fetch() checks the scheme
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except HTTPError as error:
        error.close()  # it is the server's answer, with its connection
        if error.code != 416 or not start:  # range not satisfiable: the part is all there, or of another file
            raise NetworkError(error) from error
        return start
    except (OSError, HTTPException) as error:
        raise NetworkError(error) from error
    with response:
        if start and not _continues(response, start):
            log("the server cannot continue: starting anew")
            file.truncate(start := 0)
        elif start:
            log(f"going on after {start} bytes")
        total = start + response.length if response.length else 0  # None where the header is missing or no number
        done = start
        while max(done, total) <= most and (chunk := _read(response)):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    return total


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise NetworkError(error) from error


def _continues(response: HTTPResponse, start: int) -> bool:
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _lines(url: str, log: Log) -> Progress:
    """A line whenever another share of the whole is there."""
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        step = max(16 << 20, int(total * REPORTED_SHARE))
        if done // step > told:
            told = done // step
            log(f"{done >> 20} of {total >> 20 if total else '?'} MiB of {url}")

    return progress
