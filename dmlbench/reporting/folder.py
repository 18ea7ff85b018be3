"""A report's folder appears whole or not at all, and replaces nothing but what the last report wrote.

A report lists its files with their digests in `manifest.json`. A folder that holds anything else is the user's.
"""

import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from dmlbench.errors import UserError
from dmlbench.results.writer import file_digest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
LONGEST = 200  # characters of a name: what is written beside the folder meanwhile has a longer one
PAGE, MANIFEST = "index.html", "manifest.json"
MOVE = "give another --name, or move it away"


class Manifest(BaseModel):
    """The files of a report, by their path in it: SHA-256 of each."""

    model_config = ConfigDict(frozen=True, strict=True)

    version: int
    files: dict[str, str]


def check_target(output: Path, name: str) -> Path:
    """The report's folder; what a killed replacement left in its place is put back first.

    Raises:
        UserError: for a name that is no plain name, or where the folder holds anything that no report wrote.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        hint = f"use letters, digits, dots, dashes and underscores, {LONGEST} at most"
        raise UserError(f"--name {name[:LONGEST]!r}: not a plain name", hint=hint)
    target = output / name
    try:
        _heal(target)
        check_replaceable(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})", hint="give another --output") from error
    return target


def check_replaceable(folder: Path) -> None:
    """Raise UserError where replacing the folder would lose anything but what the last report wrote into it."""
    kind = _kind(folder)
    if kind is None or (stat.S_ISDIR(kind) and not any(folder.iterdir())):
        return
    if not stat.S_ISDIR(kind):
        what = "a link" if stat.S_ISLNK(kind) else "no folder"
        raise UserError(f"{folder}: is {what}, and no report is written over it", hint=MOVE)
    manifest = _manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: has no {MANIFEST} of a report, so nothing in it is replaced", hint=MOVE)
    if found := _foreign(folder, manifest):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{folder}: {found[0]}{more}, so the report is not replaced", hint=MOVE)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a new folder that takes the target's place when the block ends well, and vanishes when it does not.

    The old report is moved aside, never changed, and removed last, file by file. A kill at any moment leaves the old
    or the new one whole: where it comes between the two moves, the next `check_target` moves the old one back.

    Raises:
        UserError: where the folder cannot be written, or something came into the old one meanwhile.
    """
    staged, old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.new"), _aside(target)
    try:
        staged.mkdir(parents=True)
        yield staged
        _write_manifest(staged)
        check_replaceable(target)
        if _kind(target) is not None:
            target.rename(old)
        staged.rename(target)
        _remove(old)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{target}: cannot be written ({reason})", hint="give another --output") from error
    finally:
        with suppress(OSError, UserError):
            _restore(target)
        shutil.rmtree(staged, ignore_errors=True)  # made by this call, and only if it is still there


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _restore(target: Path) -> None:
    if _kind(_aside(target)) is not None and _kind(target) is None:
        check_replaceable(_aside(target))  # somebody else's folder of that name stays where it is
        _aside(target).rename(target)


def _heal(target: Path) -> None:
    """Undo or end what a replacement left half done: the old report is back, or gone where the new one is there."""
    _restore(target)
    if _kind(_aside(target)) is not None:
        check_replaceable(_aside(target))
        _remove(_aside(target))


def _remove(folder: Path) -> None:
    """Remove the files that a report wrote, and the folders that are empty then; anything else there stays.

    The manifest goes after the files that it lists, so that an interrupted report is recognised as such.
    """
    if _kind(folder) is None:
        return
    manifest = _manifest(folder)
    paths = _below(folder)
    for path in paths:
        if manifest and _is_of(path, folder, manifest):
            path.unlink()
    for path in reversed(paths):
        if stat.S_ISDIR(_kind(path) or 0):
            with suppress(OSError):  # not empty: somebody has put something there
                path.rmdir()
    (folder / MANIFEST).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _write_manifest(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in _below(folder) if path.is_file()}
    (folder / MANIFEST).write_text(Manifest(version=1, files=files).model_dump_json(indent=1) + "\n", encoding="utf-8")


def _manifest(folder: Path) -> Manifest | None:
    """The report's list of its files; None where there is none, or something else under its name."""
    path = folder / MANIFEST
    if not stat.S_ISREG(_kind(path) or 0):
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _foreign(folder: Path, manifest: Manifest) -> list[str]:
    """What is in a folder that its report did not write, or wrote otherwise, in words."""
    found = []
    parents = {parent.as_posix() for name in manifest.files for parent in PurePosixPath(name).parents}
    for path in _below(folder):
        name = path.relative_to(folder).as_posix()
        of_report = stat.S_ISDIR(_kind(path) or 0) and name in parents
        if name == MANIFEST or of_report or _is_of(path, folder, manifest):
            continue
        written = "was changed since" if name in manifest.files else "was not written by"
        found.append(f"{name} {written} the report that dmlbench wrote here")
    return found


def _is_of(path: Path, folder: Path, manifest: Manifest) -> bool:
    """Whether a path is a file as the report wrote it, and no link."""
    digest = manifest.files.get(path.relative_to(folder).as_posix())
    return digest is not None and stat.S_ISREG(_kind(path) or 0) and file_digest(path) == digest


def _below(folder: Path) -> list[Path]:
    """Everything in a folder and its subfolders, each before what it holds; links are not followed."""
    walked = sorted(os.walk(folder, onerror=_raise))
    return [Path(parent) / name for parent, folders, files in walked for name in sorted(folders + files)]


def _raise(error: OSError) -> None:
    raise error


def _kind(path: Path) -> int | None:
    """The type of what is at a path, a link not followed; None for nothing."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return None
