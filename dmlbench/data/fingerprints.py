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
    """SHA-256 of labels and contents in order, whatever the files are called.

    Args:
        sides: Each side's files and the SHA-256 of each file.
    """
    digest = hashlib.sha256()
    for files, contents in sides:
        digest.update(f"{len(files.paths)}\n".encode())
        for label, content in zip(files.labels.tolist(), contents, strict=True):
            digest.update(f"{label} {content}\n".encode())
    return digest.hexdigest()
