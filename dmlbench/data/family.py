"""What a dataset family's file offers, in NumPy: planning a matrix needs the catalogue but not torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Log = Callable[[str], None]


@dataclass(frozen=True)
class LabelledImages:
    """One side of a class-disjoint split.

    Attributes:
        images: uint8 (N, C, H, W), ordered by class.
        labels: int64 (N,), contiguous from 0.
        class_names: One name per label.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


class Family(Protocol):
    """A module of this package that knows one dataset."""

    def prepare(self, data_dir: Path | None, log: Log) -> None:
        """Make sure `read` will succeed; raise UserError with the remedy otherwise."""

    def read(self, data_dir: Path | None, log: Log) -> tuple[LabelledImages, LabelledImages]:
        """Training and test classes."""
