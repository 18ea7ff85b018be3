"""Unpacks archives that nobody has to trust: plain files below one folder, of a size that was expected."""

import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from filelock import FileLock

from dmlbench.data.archives import Archive, Progress, fetch
from dmlbench.data.family import Log
from dmlbench.errors import UserError

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
