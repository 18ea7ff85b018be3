"""Published archives: downloads that can be resumed, verified by checksum, and unpacked without trusting them.

A published dataset is found anywhere below a data folder, or downloaded as one archive.
"""

import hashlib
import os
import shutil
import stat
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import IO, Any
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
                _download(url, destination, checksum, log, progress or _lines(url, log), most=most)
    except NetworkError as error:
        raise UserError(f"cannot download {url} ({error})", hint=manual) from error
    except OSError as error:
        raise UserError(f"{error.filename or destination}: cannot be written ({error.strerror})") from error


def _holds(path: Path, checksum: str) -> bool:
    return path.is_file() and file_checksum(path, checksum) == checksum


def _download(url: str, destination: Path, checksum: str, log: Log, progress: Progress, *, most: int) -> None:
    """Append to the partial file; rename it after checksum and fsync."""
    part = destination.with_name(f".{destination.name}.dmlbench.part")  # NAME.part may be a browser's
    if destination.exists():
        if not destination.absolute().is_relative_to(cache_dir().absolute()):  # somebody's own
            hint = "move it away, and the same command downloads the published one"
            raise UserError(f"{destination}: is not the published file, and is not replaced", hint=hint)
        log(f"{destination} is not the published file, or damaged: it will be replaced")
    log(f"downloading {url} to {destination.parent}")
    try:
        with part.open("ab") as file:
            expected = _receive(url, file, most, log, progress)
            file.flush()
            os.fsync(file.fileno())
    finally:
        size = part.stat().st_size
        if not size:
            part.unlink()
    if max(size, expected) > most:
        part.unlink(missing_ok=True)
        sent = f"{expected} bytes" if expected > most else f"more than {most} bytes"
        hint = "nothing was kept: download it by hand, and pass its folder as --data-dir"
        raise UserError(f"{url}: the server sends {sent}, and the published file is smaller", hint=hint)
    if not size:
        raise UserError(f"{url}: the server sends nothing", hint="try again later")
    if size < expected:
        hint = "what was downloaded is kept: rerun the same command to resume"
        raise UserError(f"{url}: the transfer broke after {size} of {expected} bytes", hint=hint)
    found = file_checksum(part, checksum)
    if found != checksum:
        part.unlink()
        hint = "nothing was kept: try again, or download it by hand and pass its folder as --data-dir"
        raise UserError(f"{url}: expected {checksum}, received {found} in {size} bytes", hint=hint)
    part.replace(destination)
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
        continues = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and not (response.status == 206 and continues):
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
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, ValueError)


def fetch_and_extract(archive: Archive, folder: Path, log: Log, progress: Progress | None = None) -> None:
    """Have an archive's dataset in `folder`, unless it is there: download the archive, verify and unpack it.

    Raises:
        UserError: as `fetch` and `extract` do.
    """
    file, target = folder / archive.name, folder / archive.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{archive.folder}.lock"):  # parallel callers wait for the first
            if target.is_dir():
                return
            fetch(archive.url, file, archive.checksum, log, progress, most=archive.most)
            for left in folder.glob(f".{archive.folder}*.part"):  # by a process that was killed: this one has the lock
                shutil.rmtree(left, ignore_errors=True)
            log(f"unpacking {file}")
            extract(file, folder, archive.folder, archive.largest)
    except OSError as error:
        hint = "name another with --data-dir"
        raise UserError(f"{folder}: cannot be written ({error.strerror})", hint=hint) from error
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
        with TemporaryDirectory(".part", f".{wanted}", folder, ignore_cleanup_errors=True) as name:
            _unpack(file, Path(name), largest)
            unpacked = Path(name, wanted)
            if not unpacked.is_dir():
                raise UserError(f"{file}: holds no folder {wanted}")
            unpacked.rename(target)
    except DAMAGE as error:
        raise UserError(f"{file}: damaged ({error})", hint="delete it and download it again") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be unpacked into {folder} ({error})") from error


def _unpack(file: Path, folder: Path, largest: int) -> None:
    """Every member is judged by its head, before any of its bytes are read."""
    total = 0
    with closing(_members(file)) as members:
        for number, (name, kind, size, opened) in enumerate(members, start=1):
            total += size
            if total > largest or number > MOST_MEMBERS:
                limit = f"{largest / 2**30:.1f} GiB or {MOST_MEMBERS:,} members"
                raise UserError(f"{file}: refused: it unpacks to more than {limit}")
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts or "\\" in name or PureWindowsPath(name).drive:
                raise UserError(f"{file}: refused: {name!r} points outside of the folder it is unpacked into")
            if kind:
                raise UserError(f"{file}: refused: {name!r} is {kind}, not a file")
            path = folder / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            if opened is None:
                path.mkdir(exist_ok=True)
            else:
                with opened() as source, path.open("wb") as target:  # neither format reads on beyond `size`
                    shutil.copyfileobj(source, target)


def _members(file: Path) -> Generator[tuple[str, str, int, Callable[[], Any] | None], None, None]:
    """Name, kind ("" for a file or a folder) and size of each member, and what opens a file before the next is read."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                mode = stat.S_IFMT(entry.external_attr >> 16)
                plain = mode in (0, stat.S_IFREG, stat.S_IFDIR)
                kind = "" if plain else "a link" if mode == stat.S_IFLNK else "a device"
                opener = None if entry.is_dir() else partial(archive.open, entry)
                yield entry.filename, kind, entry.file_size, opener
        return
    with tarfile.open(file, "r|*") as stream:
        for info in stream:
            plain = info.isreg() or info.isdir()
            kind = "" if plain else "a link" if info.issym() or info.islnk() else "a device"
            yield info.name, kind, info.size, partial(stream.extractfile, info) if info.isreg() else None


@dataclass(frozen=True)
class Release:
    """A dataset's archive, and the files and folders (`marks`) by which its unpacked root is found."""

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
