"""What the dataset families' files share, in NumPy: planning a matrix needs the catalogue but not torch.

A split's sides and their fingerprint, the user's cache folder, and published layouts below a data folder.
"""

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from dmlbench.errors import UserError, counted, inflected

Log = Callable[[str], None]


def composed(name: str) -> str:
    """A name in one of the two ways to write its accents (Unicode's NFC): file systems of Macs give the other."""
    return unicodedata.normalize("NFC", name)


def escaped(name: str) -> str:
    r"""A name as it can be written to a file: what is not UTF-8 in it as an escape, such as `\udce9`."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def stated(path: str) -> str:
    """A path as specs and records state it: composed, and escaped."""
    return escaped(composed(path))


@dataclass(frozen=True)
class LabelledImages:
    """One side of a class-disjoint split, in memory.

    Attributes:
        images: uint8 (N, C, H, W), ordered by class.
        labels: int64 (N,), contiguous from 0.
        class_names: One name per label.
        paths: Of each image, relative to the dataset, with forward slashes; empty where images have no names.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledFiles:
    """One side of a class-disjoint split, as image files: `LabelledImages` whose `paths` start from `root`.

    `queries` (N,) says which images of a test side are queries; the others are the gallery in which these search. It is
    None where every image is a query, and its gallery all others.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    queries: NDArray[np.bool_] | None = None

    def without(self, skipped: frozenset[str]) -> "LabelledFiles":
        """Leave some paths out; a class that loses its last image goes, and the later ones move up."""
        if not skipped:
            return self
        left_out = {stated(path) for path in skipped}
        kept = self.at([index for index, path in enumerate(self.paths) if stated(path) not in left_out])
        classes, labels = np.unique(kept.labels, return_inverse=True)
        names = tuple(self.class_names[label] for label in classes.tolist())
        return replace(kept, labels=labels.astype(np.int64), class_names=names)

    def at(self, positions: Sequence[int]) -> "LabelledFiles":
        """The files at some positions, in their order, with the same classes."""
        queries = None if self.queries is None else self.queries[positions]
        paths = tuple(self.paths[index] for index in positions)
        return replace(self, paths=paths, labels=self.labels[positions], queries=queries)

    @property
    def lost_queries(self) -> int:
        """How many queries have nothing to find, and so are left out and counted: no other image of their class."""
        if self.queries is None:
            return int((np.bincount(self.labels) == 1).sum())
        return int((~np.isin(self.labels[self.queries], self.labels[~self.queries])).sum())


Side = LabelledImages | LabelledFiles


class Family(Protocol):
    """What knows one dataset: a module of this package, or a folder that the user declared."""

    def prepare(self, data_dir: Path | None, log: Log) -> None:
        """Make or download what is missing, where that can be done unasked."""

    def read(self, data_dir: Path | None, log: Log) -> tuple[Side, Side]:
        """Training and test classes; raise UserError with the remedy where they are not there or damaged."""


@runtime_checkable
class Downloadable(Protocol):
    """A family whose files are published under a public link."""

    def fetch(self, folder: Path, log: Log, progress: Callable[[int, int], None] | None = None) -> None:
        """Have the dataset in `folder`."""


def labelled(root: Path, rows: list[tuple[str, str]], queries: Sequence[bool] | None = None) -> LabelledFiles:
    """Files from (class name, path) rows; classes are numbered in order of appearance. `queries`: one a row, or None.

    Raises:
        UserError: there are no rows.
    """
    if not rows:
        raise UserError(f"{root}: holds no images for one side of the split", hint="see `dmlbench data check`")
    numbers: dict[str, int] = {}
    labels = [numbers.setdefault(name, len(numbers)) for name, _ in rows]
    roles = None if queries is None else np.array(queries, dtype=np.bool_)
    return LabelledFiles(root, tuple(path for _, path in rows), np.array(labels, dtype=np.int64), tuple(numbers), roles)


ROLES = ("train", "test", "query", "gallery")
Row = tuple[str, str, str]  # role, class, path


def sides_by_role(name: str, root: Path, rows: Iterable[Row]) -> tuple[LabelledFiles, LabelledFiles]:
    """Training and test side of files whose role is one of `ROLES`: either `test` or `query` and `gallery` are tested.

    Args:
        name: The dataset's, for messages.
        root: From which paths start.
        rows: All of one class one after another within train, and within what is tested.

    Raises:
        UserError: a class that trains and is tested, or no images for a side.
    """
    train: list[tuple[str, str]] = []
    test: list[tuple[str, str]] = []
    queries: list[bool] = []
    for role, label, path in rows:
        if role == "train":
            train.append((label, path))
        else:
            test.append((label, path))
            queries.append(role == "query")
    roles = queries if any(queries) else None
    sides = labelled(root, train), labelled(root, test, roles)
    known = set(sides[0].class_names)
    if both := [label for label in sides[1].class_names if label in known]:
        what = f"{name}: {counted(len(both), 'class', 'classes')} of {root} in train are tested as well ({some(both)})"
        raise UserError(what, hint="a class either trains or is tested")
    return sides


def fingerprint(*sides: LabelledImages) -> str:
    """SHA-256 of shapes, pixels, labels and class names."""
    digest = hashlib.sha256()
    for side in sides:
        digest.update(repr((side.images.shape, side.class_names)).encode())
        digest.update(np.ascontiguousarray(side.images).data)
        digest.update(side.labels.astype("<i8").data)
    return digest.hexdigest()


def files_fingerprint(sides: Iterable[tuple[LabelledFiles, Sequence[str]]]) -> str:
    """SHA-256 of labels, of who is a query, and of the files' SHA-256.

    What the files are called, and how a release lays them out, changes nothing.
    """
    digest = hashlib.sha256()
    for files, contents in sides:
        digest.update(f"{len(files.paths)}\n".encode())
        for index in content_order(files, contents):
            role = "" if files.queries is None else " query" if files.queries[index] else " gallery"
            digest.update(f"{files.labels[index]} {contents[index]}{role}\n".encode())
    return digest.hexdigest()


def content_order(files: LabelledFiles, contents: Sequence[str]) -> list[int]:
    """Positions of a side's files by class, within it by the SHA-256 of their contents, and queries first of equals."""
    labels = files.labels.tolist()
    second = [False] * len(labels) if files.queries is None else (~files.queries).tolist()
    return sorted(range(len(labels)), key=lambda index: (labels[index], contents[index], second[index]))


def cache_dir() -> Path:
    """Folder for generated and downloaded data: ``XDG_CACHE_HOME``, else the platform's custom; not created.

    Raises:
        UserError: a user without a home folder, as containers have them.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    # Everywhere, while platformdirs asks for it on some systems only. The XDG specification has relative paths ignored.
    if given and Path(given).is_absolute():
        return Path(given) / "dmlbench"
    try:
        return user_cache_path("dmlbench", appauthor=False, opinion=False)
    except RuntimeError as error:
        hint = "set XDG_CACHE_HOME to the full path of a folder that can be written"
        raise UserError("this user has no home folder, so there is none for the cache", hint=hint) from error


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
    # An archive that is being unpacked, or was interrupted, is in a hidden folder.
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(data_dir).parts)]


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image, and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


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
        what = f"{name}: {len(missing)} of {len(wanted)} listed images are not in {root} ({some(missing)})"
        raise UserError(what, hint="the release is incomplete: extract it again")
    tell_strays(name, root, there - wanted, log)


def tell_strays(name: str, root: Path, strays: Iterable[str], log: Log) -> None:
    """Say how many files are ignored, if any."""
    if ignored := sorted(strays):
        files, are = counted(len(ignored), "other file"), inflected(len(ignored), "is", "are")
        log(f"{name}: {files} below {root} {are} ignored ({some(ignored)})")


def files_below(root: Path, folder: str) -> list[str]:
    """All files below a folder of `root`, as paths from `root` with forward slashes, unsorted."""

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return  # the caller names what is listed and missing
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})", hint="check its permissions") from error

    found = []
    for parent, _, names in os.walk(root / folder, onerror=refuse):
        relative = Path(parent).relative_to(root).as_posix()
        found += [name if relative == "." else f"{relative}/{name}" for name in names]
    return found


def some(paths: list[str]) -> str:
    """The first three of many."""
    return ", ".join(islice(paths, 3)) + (", ..." if len(paths) > 3 else "")
