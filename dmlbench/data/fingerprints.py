"""What a result's data were, as one SHA-256."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from dmlbench.data.family import LabelledFiles, LabelledImages


def fingerprint(*sides: LabelledImages) -> str:
    """SHA-256 of shapes, pixels, labels and class names."""
    digest = hashlib.sha256()
    for side in sides:
        digest.update(repr((side.images.shape, side.class_names)).encode())
        digest.update(np.ascontiguousarray(side.images).data)
        digest.update(side.labels.astype("<i8").data)
    return digest.hexdigest()


def files_fingerprint(sides: Iterable[tuple[LabelledFiles, Sequence[str]]]) -> str:
    """SHA-256 of labels and contents, whatever the files are called and however a release lays them out.

    Args:
        sides: Each side's files and the SHA-256 of each file.
    """
    digest = hashlib.sha256()
    for files, contents in sides:
        digest.update(f"{len(files.paths)}\n".encode())
        for index in content_order(files, contents):
            digest.update(f"{files.labels[index]} {contents[index]}\n".encode())
    return digest.hexdigest()


def content_order(files: LabelledFiles, contents: Sequence[str]) -> list[int]:
    """Positions of a side's files by class, and within a class by the SHA-256 of their contents."""
    labels = files.labels.tolist()
    return sorted(range(len(labels)), key=lambda index: (labels[index], contents[index]))
