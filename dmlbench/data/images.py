"""Loaded datasets: images and contiguous labels, and validation classes held out of training."""

import itertools
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
import torch
from torch import Tensor

from dmlbench.data.augment import Images
from dmlbench.data.catalogue import family_of
from dmlbench.data.family import LabelledFiles, LabelledImages, Log, files_fingerprint, fingerprint
from dmlbench.data.files import Chosen, decoded, read_files
from dmlbench.data.ready import check_counts, files_of
from dmlbench.errors import UserError
from dmlbench.seeding import stream
from dmlbench.specs.dataset import DatasetSpec

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images of one set of classes.

    Attributes:
        images: uint8 (C, H, W) each: a tensor (N, C, H, W), or files.
        labels: int64 (N,), contiguous from 0.
        class_names: One name per label.
        paths: Of each image, relative to the dataset, with forward slashes; empty where images have no names.
    """

    images: Images
    labels: Tensor
    class_names: tuple[str, ...]
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A dataset with disjoint training and test classes; `fingerprint` is the SHA-256 of everything in it."""

    name: str
    train: Split
    test: Split
    fingerprint: str


def load_dataset(spec: DatasetSpec, data_dir: Path | None = None, log: Log = LOGGER.info) -> Dataset:
    """Read a dataset: small ones into memory, files encoded or as a mapped cache of decoded pixels.

    Where its spec holds training classes out, they are the test side, and the test classes are in neither.

    Args:
        spec: Its name and version, as `ready.dataset_spec` gives them.
        data_dir: The folder the user gave, None for the cache.
        log: Takes one line per lengthy step.

    Raises:
        UserError: An unknown name, or files that are missing, damaged or not those of the version.
    """
    whole = _load(spec, data_dir, log)
    train, held_out = split_classes(whole.train, spec.held_out)
    return replace(whole, train=train, test=held_out) if held_out else whole


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


def _load(spec: DatasetSpec, data_dir: Path | None, log: Log) -> Dataset:
    sides = family_of(spec).read(data_dir, log)
    files = files_of(sides)
    check_counts(spec, sides)
    if files is None:
        found = [side for side in sides if isinstance(side, LabelledImages)]
        return Dataset(spec.name, _split(found[0]), _split(found[1]), fingerprint(*found))
    return _load_files(spec, files, log)


def _load_files(spec: DatasetSpec, files: tuple[LabelledFiles, LabelledFiles], log: Log) -> Dataset:
    kept = [side.without(frozenset(spec.skipped)) for side in files]
    encoded, digests = zip(*map(read_files, kept), strict=True)
    whole = files_fingerprint(zip(kept, digests, strict=True))
    if spec.root is not None and not whole.startswith(spec.version):
        found = f"{spec.name}: {spec.root} holds other images than version {spec.version} (now {whole[:12]})"
        raise UserError(
            found,
            hint="they changed under the run, or without a trace: `dmlbench data check` looks anew; then run it again",
        )
    # Decoders of different releases may differ by a grey level, and one's pixels must not pass for another's.
    key = f"{whole[:16]}-simplejpeg{simplejpeg.__version__}-pillow{PIL.__version__}"
    names = ("train", "test")
    images = [decoded(side, f"{key}-{name}", log) for side, name in zip(encoded, names, strict=True)]
    train, test = (
        Split(pictures, torch.from_numpy(side.labels), side.class_names, side.paths)
        for pictures, side in zip(images, kept, strict=True)
    )
    return Dataset(spec.name, train, test, whole)


def _split(arrays: LabelledImages) -> Split:
    return Split(torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels), arrays.class_names, arrays.paths)


def _select(split: Split, classes: np.ndarray) -> Split:
    kept = torch.from_numpy(np.sort(classes))
    mask = torch.isin(split.labels, kept)
    labels = torch.searchsorted(kept, split.labels[mask])
    images = split.images
    selected = images[mask] if isinstance(images, Tensor) else Chosen(images, mask.nonzero()[:, 0].numpy())
    paths = tuple(itertools.compress(split.paths, mask.tolist()))
    return Split(selected, labels, tuple(split.class_names[index] for index in kept.tolist()), paths)
