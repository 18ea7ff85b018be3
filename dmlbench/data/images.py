"""Loaded datasets: uint8 images and contiguous labels as tensors, and validation classes held out of training."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmlbench.data.catalogue import DatasetInfo, dataset_info
from dmlbench.data.family import LabelledImages, Log
from dmlbench.errors import UserError
from dmlbench.randomness import stream

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images of one set of classes.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), contiguous from 0.
        class_names: One name per label.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A dataset with disjoint training and test classes; `fingerprint` is the SHA-256 of everything in it."""

    name: str
    train: Split
    test: Split
    fingerprint: str


def load_dataset(name: str, data_dir: Path | None = None, log: Log = LOGGER.info) -> Dataset:
    """Read a dataset into memory.

    Args:
        name: A name of the catalogue.
        data_dir: The folder the user gave, None for the cache.
        log: Takes one line per lengthy step.

    Raises:
        UserError: An unknown name, or files that are missing or damaged.
    """
    info = dataset_info(name)
    train, test = info.family.read(data_dir, log)
    _check_counts(info, train, test)
    return Dataset(name, _split(train), _split(test), fingerprint(train, test))


def split_classes(split: Split, fraction: float) -> tuple[Split, Split | None]:
    """Hold out ``round(fraction * classes)`` classes, at least 2, for validation; none for fraction 0.

    The choice is one fixed shuffle of the classes, the same for all methods and seeds. Labels are renumbered
    contiguously on both sides, in the original order.

    Raises:
        UserError: Fewer than 2 classes would remain for training.
    """
    if fraction == 0:
        return split, None
    classes = len(split.class_names)
    held_out = max(2, round(fraction * classes))
    if classes - held_out < 2:
        raise UserError(
            f"validation: classes: holding out {held_out} of {classes} training classes leaves fewer than 2",
            hint="choose a smaller fraction, or 0",
        )
    order = stream(0, 0, "validation classes").permutation(classes)
    return _select(split, order[held_out:]), _select(split, order[:held_out])


def fingerprint(*splits: LabelledImages) -> str:
    """SHA-256 of shapes, pixels, labels and class names."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr((split.images.shape, split.class_names)).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(split.labels.astype("<i8").data)
    return digest.hexdigest()


def _check_counts(info: DatasetInfo, train: LabelledImages, test: LabelledImages) -> None:
    found = len(train.class_names), len(test.class_names), len(train.images), len(test.images)
    expected = info.train_classes, info.test_classes, info.train_images, info.test_images
    if found != expected:
        raise UserError(
            f"{info.name}: expected {expected} training classes, test classes, training images, test images, "
            f"found {found}",
            hint=f"obtain the release of {info.source}",
        )


def _split(arrays: LabelledImages) -> Split:
    return Split(torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels), arrays.class_names)


def _select(split: Split, classes: np.ndarray) -> Split:
    kept = torch.from_numpy(np.sort(classes))
    mask = torch.isin(split.labels, kept)
    labels = torch.searchsorted(kept, split.labels[mask])
    return Split(split.images[mask], labels, tuple(split.class_names[index] for index in kept.tolist()))
