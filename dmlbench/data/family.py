"""What a dataset family's file offers, in NumPy: planning a matrix needs the catalogue but not torch."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dmlbench.errors import UserError

Log = Callable[[str], None]


def composed(name: str) -> str:
    """A name in one of the two ways to write its accents (Unicode's NFC): file systems of Macs give the other."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class LabelledImages:
    """One side of a class-disjoint split, in memory.

    Attributes:
        images: uint8 (N, C, H, W), ordered by class.
        labels: int64 (N,), contiguous from 0.
        class_names: One name per label.
        paths: A name for each image: its path in the archive, or one like it where it is drawn.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledFiles:
    """One side of a class-disjoint split, as image files.

    Attributes:
        root: The folder that `paths` start from.
        paths: N relative paths with forward slashes, ordered by class.
        labels: int64 (N,), contiguous from 0.
        class_names: One name per label.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def without(self, skipped: frozenset[str]) -> "LabelledFiles":
        """Leave some paths out; a class that loses its last image goes, and the later ones move up."""
        if not skipped:
            return self
        left_out = {composed(path) for path in skipped}
        kept = [index for index, path in enumerate(self.paths) if composed(path) not in left_out]
        classes, labels = np.unique(self.labels[kept], return_inverse=True)
        names = tuple(self.class_names[label] for label in classes.tolist())
        return LabelledFiles(self.root, tuple(self.paths[index] for index in kept), labels.astype(np.int64), names)


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


def labelled(root: Path, rows: list[tuple[str, str]]) -> LabelledFiles:
    """Files from (class name, path) rows; classes are numbered in order of appearance.

    Raises:
        UserError: there are no rows.
    """
    if not rows:
        raise UserError(f"{root}: holds no images for one side of the split", hint="see `dmlbench data check`")
    numbers: dict[str, int] = {}
    labels = [numbers.setdefault(name, len(numbers)) for name, _ in rows]
    return LabelledFiles(root, tuple(path for _, path in rows), np.array(labels, dtype=np.int64), tuple(numbers))
