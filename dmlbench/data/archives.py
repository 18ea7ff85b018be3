"""Published archives: verified by checksum before use, and downloaded so that a broken transfer can be resumed.

Unpacks archives that nobody has to trust: plain files below one folder, of a size that was expected.

A published dataset is found anywhere below a data folder, or downloaded as one archive.
"""

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from filelock import FileLock

from dmlbench.data.family import Log, below, cache_dir
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

    What a broken transfer downloaded is kept next to the destination, hidden, and the next call resumes it.

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
        hint = "what was downloaded is kept: rerun the same command to resume"
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
    reported = 0

    def progress(done: int, total: int) -> None:
        nonlocal reported
        step = max(16 << 20, int(total * REPORTED_SHARE))
        if done // step > reported:
            reported = done // step
            log(f"{done >> 20} of {total >> 20 if total else '?'} MiB of {url}")

    return progress


MOST_MEMBERS = 500_000
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Member:
    """An entry of an archive: a file (`content` to be read once, in order), a folder, or a `kind` that is refused."""

    name: str
    kind: str
    size: int
    content: IO[bytes] | None = None


def fetch_and_extract(archive: Archive, folder: Path, log: Log, progress: Progress | None = None) -> None:
    """Have an archive's dataset in `folder`, unless it is there: download the archive, verify and unpack it.

    Raises:
        UserError: as `fetch` and `extract` do.
    """
    file, target = folder / archive.name, folder / archive.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{archive.folder}.lock")
        with lock:  # parallel callers wait for the first
            if target.is_dir():
                return
            fetch(archive.url, file, archive.checksum, log, progress, most=archive.most)
            for left in folder.glob(f".{archive.folder}*.part"):  # by a process that was killed: this one has the lock
                shutil.rmtree(left, ignore_errors=True)
            log(f"unpacking {file}")
            extract(file, folder, archive.folder, archive.largest)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror})", hint="name another with --data-dir"
        ) from error
    log(f"{target} is ready; {file.name} is no longer needed")


def extract(file: Path, folder: Path, wanted: str, largest: int) -> None:
    """Unpack one folder of an archive into `folder`, where it appears whole or not at all.

    Args:
        file: A tar, compressed or not, or a zip.
        folder: Where to put it.
        wanted: The archive's folder to keep.
        largest: Bytes that all members may have together.

    Raises:
        UserError: a damaged archive; a member outside of the folder, a link or a device, more bytes or members than
            expected; `wanted` there already, or not in the archive. Nothing is left behind.
    """
    target = folder / wanted
    if target.exists():
        raise UserError(f"{target}: is there already", hint="move it away to have it unpacked again")
    try:
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{wanted}", suffix=".part"))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        _unpack(file, temporary, largest)
        if not (temporary / wanted).is_dir():
            raise UserError(f"{file}: holds no folder {wanted}")
        (temporary / wanted).rename(target)
    except DAMAGE as error:
        raise UserError(f"{file}: damaged ({error})", hint="delete it and download it again") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be unpacked into {folder} ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(file: Path, folder: Path, largest: int) -> None:
    total = 0
    with _members(file) as members:
        for number, member in enumerate(members, start=1):
            total += member.size
            if total > largest or number > MOST_MEMBERS:
                limit = f"{largest / 2**30:.1f} GiB or {MOST_MEMBERS:,} members"
                raise UserError(f"{file}: refused: it unpacks to more than {limit}")
            path = folder / _safe(file, member)
            if member.content is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _copy(file, member, path)


def _safe(file: Path, member: Member) -> PurePosixPath:
    """The member's relative path, if it is a file or a folder inside."""
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.name or PureWindowsPath(member.name).drive
    if outside:
        raise UserError(f"{file}: refused: {member.name!r} points outside of the folder it is unpacked into")
    if member.kind:
        raise UserError(f"{file}: refused: {member.name!r} is {member.kind}, not a file")
    return path


def _copy(file: Path, member: Member, path: Path) -> None:
    """Write a member's bytes, no more than it said it has."""
    assert member.content is not None  # noqa: S101 - narrows the type: folders have none
    left = member.size
    with path.open("wb") as target:
        while chunk := member.content.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise UserError(f"{file}: refused: {member.name!r} is longer than it says")
            target.write(chunk)
    if left:
        raise UserError(f"{file}: damaged: {member.name!r} is shorter than it says", hint="download it again")


@contextmanager
def _members(file: Path) -> Iterator[Iterator[Member]]:
    """The archive's members in order, opened one at a time."""
    if zipfile.is_zipfile(file):
        # Closed in order: a member left open would keep the archive open.
        with zipfile.ZipFile(file) as opened, closing(_zip_members(opened)) as members:
            yield members
    else:
        # As a stream: a member is judged by its head before any of its bytes are unpacked.
        with tarfile.open(file, "r|*") as opened_tar:
            yield _tar_members(opened_tar)


def _zip_members(opened: zipfile.ZipFile) -> Generator[Member, None, None]:
    for info in opened.infolist():
        mode = info.external_attr >> 16
        if stat.S_ISLNK(mode):
            yield Member(info.filename, "a link", info.file_size)
        elif mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            yield Member(info.filename, "a device", info.file_size)
        elif info.is_dir():
            yield Member(info.filename, "", 0)
        elif info.file_size > 0 and info.flag_bits & 1:
            yield Member(info.filename, "encrypted", info.file_size)
        else:
            with opened.open(info) as content:
                yield Member(info.filename, "", info.file_size, content)


def _tar_members(opened: tarfile.TarFile) -> Iterator[Member]:
    for info in opened:
        if info.isdir():
            yield Member(info.name, "", 0)
        elif info.issym() or info.islnk():
            yield Member(info.name, "a link", info.size)
        elif not info.isreg():
            yield Member(info.name, "a device", info.size)
        else:
            yield Member(info.name, "", info.size, opened.extractfile(info))


@dataclass(frozen=True)
class Release:
    """Where to find it and where to get it.

    Attributes:
        name: The dataset's, for messages and commands.
        archive: What is published.
        marks: Files and folders that its root holds, by which it is found.
    """

    name: str
    archive: Archive
    marks: tuple[str, ...]

    def prepare(self, data_dir: Path | None, log: Log) -> None:
        """Download a release that is missing in the cache; a given folder is left as it is."""
        if data_dir is None and not (cache_dir().is_dir() and self._roots(cache_dir())):
            self.fetch(cache_dir(), log)

    def fetch(self, folder: Path, log: Log, progress: Progress | None = None) -> None:
        """Download the published archive into `folder` unless it is there, verify and unpack it."""
        fetch_and_extract(self.archive, folder, log, progress)

    def root(self, data_dir: Path | None, log: Log) -> Path:
        """The folder of the release, the shallowest of several; raises UserError where there is none."""
        folder = data_dir or cache_dir()
        roots = self._roots(folder) if data_dir or folder.is_dir() else []
        if not roots:
            hint = f"`dmlbench data fetch {self.name} --data-dir {folder}` downloads it ({self.archive.size})"
            raise UserError(f"{folder}: holds no {self.archive.folder}/ with {', '.join(self.marks)}", hint=hint)
        if len(roots) > 1:
            log(f"{self.name}: {len(roots)} copies below {folder}; the one in {roots[0]} is used")
        return roots[0]

    def _roots(self, folder: Path) -> list[Path]:
        found = below(folder, self.marks[0], hint="name an existing one with --data-dir")
        return [path.parent for path in found if all((path.parent / mark).exists() for mark in self.marks)]
