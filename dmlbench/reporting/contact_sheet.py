"""A picture of a dataset: some images of some random classes, by name."""

import os
import textwrap
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dmlbench.data.family import LabelledImages, Side
from dmlbench.errors import UserError, printable
from dmlbench.reporting.style import plotting

CLASSES, IMAGES = 6, 8  # of either side
INCHES = 1.0
MARK = {"Comment": "contact sheet drawn by dmlbench"}  # in the PNG: only a file that says so is drawn over


def draw_contact_sheet(title: str, sides: tuple[Side, Side], path: Path, seed: int = 0) -> None:
    """Write a PNG: a row a class, training classes above, test classes below.

    Args:
        title: Heads the sheet.
        sides: Training and test classes.
        path: The PNG to write.
        seed: Of the choice of classes and images.
    """
    rng = np.random.default_rng(seed)
    rows = [
        (name, side, label) for name, side in zip(("train", "test"), sides, strict=True) for label in _some(side, rng)
    ]
    with plotting(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = _sheet(title, rows, rng)
        try:
            figure.savefig(path, format="png", bbox_inches="tight", metadata=MARK)
        except OSError as error:
            raise UserError(f"--sheet {path}: cannot be written ({error.strerror})") from error


def _sheet(title: str, rows: list[tuple[str, Side, int]], rng: np.random.Generator) -> Figure:
    figure = Figure(figsize=(IMAGES * INCHES + 3, len(rows) * INCHES + 0.6), layout="constrained", dpi=110)
    figure.suptitle(title)
    axes = figure.subplots(len(rows), IMAGES, squeeze=False)
    for line, (name, side, label) in zip(axes, rows, strict=True):
        members = np.flatnonzero(side.labels == label)
        for axis, index in zip(line, rng.permutation(members)[:IMAGES].tolist(), strict=False):
            pixels = _pixels(side, index)
            if pixels is not None:
                axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.axis("off")
        text = f"{name}\n{textwrap.shorten(printable(side.class_names[label]), 36, placeholder=' ...')}"
        line[0].text(-0.08, 0.5, text, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    return figure


def _some(side: Side, rng: np.random.Generator) -> list[int]:
    return sorted(rng.permutation(len(side.class_names))[:CLASSES].tolist())


def _pixels(side: Side, index: int) -> NDArray[np.uint8] | None:
    """One image as imshow takes it; None where it cannot be decoded."""
    if isinstance(side, LabelledImages):
        image: NDArray[np.uint8] = side.images[index]
        return image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    try:
        with Image.open(side.root / side.paths[index]) as opened:
            opened.thumbnail((256, 256))
            return np.asarray(opened.convert("RGB"))
    except Exception:  # noqa: BLE001 - decoders of damaged files raise nearly anything; `check` names them
        return None


def check_sheet(path: Path) -> None:
    """Raise UserError where a contact sheet cannot be written, or would be written over anything but another one."""
    if path.suffix.lower() != ".png" or not path.absolute().parent.is_dir():
        raise UserError(f"--sheet {path}: must be a .png in a folder that exists")
    if os.path.lexists(path) and not _is_sheet(path):
        raise UserError(f"--sheet {path}: exists and is no contact sheet of dmlbench", hint="name another, or move it")


def _is_sheet(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            return not path.is_symlink() and MARK.items() <= opened.info.items()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
