"""Small pictures of test images, for panels: the only part of a report that reads a dataset.

Retrieval panels: for some queries, what the base and the modified method find nearest.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from dmlbench.analysis.groups import Group, slug
from dmlbench.errors import UserError, printable
from dmlbench.reporting.style import INK, LINE, MUTED, PAGE, PALETTE, RC, Plot, plotting, wrapped
from dmlbench.results.store import read_spec, read_summary

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

    cell, summary = read_spec(folder), read_summary(folder)
    dataset = load_dataset(cell.dataset, data_dir)
    stated = summary.dataset.fingerprint if summary and summary.dataset else ""
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


RIGHT, WRONG = PALETTE[2], PALETTE[1]  # bluish green and vermilion; solid and dashed say the same without colour
# In inches: the left ends of words, query and neighbours, the gap between two retrievers, an image and its row.
WORDS, QUERY, NEIGHBOURS, GAP, SIDE, ROW = 0.06, 1.56, 2.19, 0.2, 0.41, 0.5
STEP = 0.453  # from one neighbour to the next, where there are five
NAME = 24  # characters of a class's name in one line


def retrieval_panel(group: Group, examples: pd.DataFrame, images: Thumbnails) -> Plot:
    """Queries that a method wins and loses against its base in one seed, each with its nearest neighbours.

    Args:
        group: What both share.
        examples: Rows of `analysis.examples.retrieved`, at least one.
        images: Thumbnails of all queries and neighbours.

    Returns:
        The figure; its data are the examples with the names of the classes.
    """
    names = pd.Series([printable(name) for name in images.class_names], dtype=object)
    by = examples["name"].where(examples["by"] == "method", examples["to_name"])
    classes = {"class_name": examples["label"].map(names), "neighbour_class": examples["neighbour_label"].map(names)}
    data = examples.assign(by=by, **classes)
    first = data.iloc[0]
    method, base, seed = str(first["name"]), str(first["to_name"]), int(first["seed"])
    with plotting(RC):
        figure = _drawn(f"{group.title}, seed {seed}: where {method} and {base} differ", data, images)
    return Plot(
        figure,
        f"panel_{group.slug}_{slug(method)}_seed{seed}",
        f"Test images of {group.title} on which {method} and {base} differ in seed {seed}: those won or lost in most "
        "seeds, chosen by a fixed shuffle among equals, of different classes where there are enough. Beside each query "
        "its nearest neighbours in either space, the nearest first. Solid green: of the query's class; dashed orange: "
        "of another. Images are cut to their central square.",
        data,
    )


def _drawn(title: str, data: pd.DataFrame, images: Thumbnails) -> Figure:
    """Everything on one pair of axes in inches from the upper left corner."""
    base, method = str(data["to_name"].iloc[0]), str(data["name"].iloc[0])
    k, lines = int(data["rank"].max()), wrapped([title], PAGE)
    step = STEP * min(1, 5 / k)
    ends = {base: NEIGHBOURS, method: NEIGHBOURS + step * k + GAP}
    heads = {left: wrapped([f"{by}: {k} nearest"], 0.8 * step * k) for by, left in ends.items()}
    above = 0.2 + LINE * (len(lines) + 1 + max(len(head) for head in heads.values()))
    words = {"won": f"won: {base} misses, {method} hits", "lost": f"lost: {base} hits, {method} misses"}
    parts = [
        (wrapped([words[str(outcome)]], 0.85 * PAGE), part) for outcome, part in data.groupby("outcome", sort=False)
    ]
    height = sum(0.12 + LINE * len(said) + ROW * part["query"].nunique() for said, part in parts)
    figure, axes = _sheet(above + height + 0.04)
    _write(axes, WORDS, 0.08, "\n".join(lines), color=MUTED, size=7.5)
    _key(axes, 0.1 + LINE * len(lines))
    for left, head in [(QUERY, ["query"]), *heads.items()]:
        _write(axes, left, above - 0.07, "\n".join(head), color=INK, size=7.5, va="baseline")
    top = above
    for said, part in parts:
        _write(axes, WORDS, top + 0.08, "\n".join(said), color=INK, size=7.5, weight="bold")
        top += 0.12 + LINE * len(said)
        for _, shown in part.groupby("query", sort=False):
            _describe(axes, top, shown.iloc[0])
            _image(axes, QUERY, top, SIDE, images.pixels[int(shown["query"].iloc[0])])
            for by, rank, neighbour, correct in shown[["by", "rank", "neighbour", "correct"]].itertuples(index=False):
                side = SIDE * step / STEP
                left = ends[by] + (rank - 1) * step
                _image(axes, left, top, side, images.pixels[neighbour])
                _frame(axes, left, top, side, correct=correct)
            top += ROW
    return figure


def _sheet(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    figure.set_layout_engine("none")  # positions are fixed; without an engine to set aside, saving would start one
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, PAGE), ylim=(height, 0))
    return figure, axes


def _key(axes: Axes, top: float) -> None:
    left = WORDS + 0.02
    for correct, words in (True, "of the query's class"), (False, "of another class"):
        _frame(axes, left, top, 0.09, correct=correct)
        _write(axes, left + 0.17, top + 0.045, words, color=MUTED, size=7, va="center_baseline")
        left += 1.35


def _describe(axes: Axes, top: float, row: pd.Series) -> None:
    name = _lines(str(row["class_name"]), NAME, 2)
    _write(axes, WORDS, top, "\n".join(name), color=INK, size=7)
    record = f"won {row['wins']}, lost {row['losses']} of {row['seeds']} seeds"
    _write(axes, WORDS, top + 0.04 + 0.125 * len(name), record, color=MUTED, size=6.5)


def _image(axes: Axes, left: float, top: float, side: float, pixels: NDArray[np.uint8]) -> None:
    """One thumbnail as it is: matplotlib would resample it, and join all of a sheet into one large image."""
    span = (left, left + side, top + side, top)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=span, interpolation="none", aspect="auto")


def _frame(axes: Axes, left: float, top: float, side: float, *, correct: bool) -> None:
    colour, line = (RIGHT, "-") if correct else (WRONG, (0, (2.2, 1.3)))
    frame = Rectangle((left, top), side, side, linewidth=1.5, facecolor="none", edgecolor=colour, linestyle=line)
    axes.add_patch(frame)


def _write(axes: Axes, left: float, top: float, words: str, *, va: str = "top", **style: Any) -> None:  # noqa: ANN401
    axes.text(left, top, words, va=va, ha="left", linespacing=1.15, **style)


def _lines(name: str, width: int, count: int) -> list[str]:
    """A name in at most `count` lines, broken at spaces, underscores and slashes where it can be."""
    loose = name.replace("_", " ").replace("/", "/ ")
    return [line.replace("/ ", "/") for line in textwrap.wrap(loose, width, max_lines=count, placeholder=" …")]
