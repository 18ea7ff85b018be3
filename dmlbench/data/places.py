"""Finding published layouts below a data folder, and comparing what they list with what is there."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from dmlbench.data.family import Log
from dmlbench.errors import UserError

SEARCH_DEPTH = 3
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpe", ".jfif"))


def below(data_dir: Path, name: str, *, hint: str) -> list[Path]:
    """Entries called `name` in a data folder or at most `SEARCH_DEPTH` folders down, the shallowest first.

    Raises:
        UserError: no such data folder.
    """
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such data folder", hint=hint)
    found = [path for depth in range(SEARCH_DEPTH + 1) for path in sorted(data_dir.glob("*/" * depth + name))]
    # An archive being unpacked, or left so, lies in a hidden folder.
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(data_dir).parts)]


def read_lines(path: Path) -> list[str]:
    """The lines of a published list; raises UserError where it is none."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", hint="check its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error.reason})") from error


def check_listed(name: str, root: Path, folders: Iterable[str], listed: Iterable[str], log: Log) -> None:
    """Compare a published list with the files below some folders of `root`; files that it lacks are ignored.

    Raises:
        UserError: a listed file is not there.
    """
    wanted = set(listed)
    there = {path for folder in folders for path in files_below(root, folder)}
    if missing := sorted(wanted - there):
        hint = "the release is incomplete: extract it again"
        raise UserError(
            f"{name}: {len(missing)} of {len(wanted)} listed images are not in {root} ({some(missing)})", hint=hint
        )
    tell_strays(name, root, there - wanted, log)


def tell_strays(name: str, root: Path, strays: Iterable[str], log: Log) -> None:
    """Say how many files are ignored, if any."""
    if ignored := sorted(strays):
        log(f"{name}: {len(ignored)} other files below {root} are ignored ({some(ignored)})")


def files_below(root: Path, folder: str) -> list[str]:
    """All files below a folder of `root`, as paths from `root` with forward slashes, unsorted."""

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return  # what a list names and is not there is told with the list
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})", hint="check its permissions") from error

    found = []
    for parent, _, names in os.walk(root / folder, onerror=refuse):
        relative = Path(parent).relative_to(root).as_posix()
        found += [name if relative == "." else f"{relative}/{name}" for name in names]
    return found


def some(paths: list[str]) -> str:
    """The first three of many."""
    return ", ".join(islice(paths, 3)) + (", ..." if len(paths) > 3 else "")
