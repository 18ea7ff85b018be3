"""Files that are not what they should be: each is named and left out, and never stops the rest."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dmlbench.errors import UserError

Content = TypeVar("Content")


@dataclass(frozen=True)
class Damaged:
    """What could not be read.

    Attributes:
        place: The cell's folder, or the file where it belongs to no cell.
        reason: One line that begins with the file.
    """

    place: Path
    reason: str


OnDamaged = Callable[[Damaged], None]


def warn(damaged: Damaged) -> None:
    """Say it as a Python warning: what is done where the caller of a function of this package says nothing else."""
    warnings.warn(f"left out: {damaged.reason}", stacklevel=2)


def attempt(read: Callable[[Path], Content], place: Path) -> Content | Damaged:
    """What `read(place)` returns, or why it cannot be read."""
    try:
        return read(place)
    except UserError as error:
        return Damaged(place, str(error))


def sound(found: Iterable[Content | Damaged], damaged: OnDamaged) -> Iterator[Content]:
    """Pass on what could be read, and give the rest to `damaged`."""
    for item in found:
        if isinstance(item, Damaged):
            damaged(item)
        else:
            yield item
