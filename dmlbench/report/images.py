"""Small pictures of test images, for panels: the one place of a report that reads a dataset."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmlbench.errors import UserError
from dmlbench.store import read_spec, read_summary

LARGEST_SIDE = 72  # pixels: half an inch on a printed page
COLOURS = 64  # of a thumbnail of a photograph: at this size nobody sees it, and it takes a third of the bytes


@dataclass(frozen=True)
class Thumbnails:
    """Test images by their position in the split, and the names of all test classes.

    Attributes:
        pixels: uint8 (S, S, 3) each, or (S, S) where the image is grey; S is at most `LARGEST_SIDE`.
        class_names: One per label.
    """

    pixels: dict[int, NDArray[np.uint8]]
    class_names: tuple[str, ...]


def thumbnails(folder: Path, data_dir: Path | None, positions: Iterable[int]) -> Thumbnails:
    """Central squares of some test images of a cell's dataset.

    The whole dataset is read to make sure that it is the one the cell was run on: ask once for all panels of it.

    Args:
        folder: The cell's.
        data_dir: The folder the user gave for data, None for the cache. Nothing is downloaded.
        positions: Of the images in the test split.

    Raises:
        UserError: where the images are not there, or are not those of the cell.
    """
    from dmlbench.data.images import load_dataset  # noqa: PLC0415 - torch, only for those who look at images

    cell, summary = read_spec(folder), read_summary(folder) or {}
    dataset = load_dataset(cell.dataset, data_dir)
    stated = str(summary.get("dataset", {}).get("fingerprint", ""))
    if dataset.fingerprint != stated:
        raise UserError(
            f"{folder}: ran on other images of {cell.dataset.name} (fingerprint {stated[:12] or 'unknown'}, now "
            f"{dataset.fingerprint[:12]})",
            hint="name the folder with its data by --data-dir",
        )
    images = {position: thumbnail(dataset.test.images[position].numpy()) for position in sorted(set(positions))}
    return Thumbnails(images, dataset.test.class_names)


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The central square of an image (C, H, W), never enlarged: (S, S) where all channels are equal, else (S, S, 3)."""
    _, height, width = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[:, top : top + side, left : left + side]
    grey = bool((square == square[:1]).all())
    picture = Image.fromarray(np.ascontiguousarray(square[0] if grey else square.transpose(1, 2, 0)))
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    if not grey:
        picture = picture.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
    return np.asarray(picture)
