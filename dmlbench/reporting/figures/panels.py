"""Small pictures of test images, for panels: the only part of a report that reads a dataset.

Retrieval panels: for some queries, what the base and the modified method find nearest, or what one method does.
"""

import logging
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.transforms import BboxTransformTo, ScaledTranslation
from numpy.typing import NDArray
from PIL import Image

from dmlbench.analysis.groups import Group, slug
from dmlbench.data.catalogue import dataset_info, family_of
from dmlbench.data.family import LabelledImages, cache_dir, fingerprint
from dmlbench.errors import UserError, printable
from dmlbench.reporting.style import INK, LINE, MUTED, PAGE, PALETTE, RC, Plot, plotting, wrapped
from dmlbench.results.store import read_spec, read_summary
from dmlbench.specs.cell import Cell

if TYPE_CHECKING:
    from dmlbench.data.images import Split

LOGGER = logging.getLogger(__name__)

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
    cell, summary = read_spec(folder), read_summary(folder)
    test, found = _test_images(cell, data_dir or cache_dir())  # a folder that is named is never downloaded into
    stated = summary.dataset.fingerprint if summary and summary.dataset else ""
    if found != stated:
        raise UserError(
            f"{folder}: ran on other images of {cell.dataset.name} (fingerprint {stated[:12] or 'unknown'}, now "
            f"{found[:12]})",
            hint="name the folder with its data by --data-dir",
        )
    wanted = sorted(set(positions))
    if wanted and wanted[-1] >= len(test.images):
        what = f"{folder}: has embeddings of {wanted[-1] + 1} images or more, and the dataset {len(test.images)}"
        raise UserError(what, hint="its embeddings are of other images: run the cell anew")
    images = {position: thumbnail(np.asarray(test.images[position])) for position in wanted}
    return Thumbnails(images, test.class_names)


def _test_images(cell: Cell, data_dir: Path) -> "tuple[LabelledImages | Split, str]":
    """A cell's test split, and the fingerprint of its dataset; small datasets as they are, without torch."""
    published = not cell.dataset.held_out and not cell.dataset.fold and cell.protocol.training.vary != "split"
    if cell.dataset.root is None and not dataset_info(cell.dataset.name).files and published:
        train, test = family_of(cell.dataset).read(data_dir, LOGGER.info)
        if isinstance(train, LabelledImages) and isinstance(test, LabelledImages):
            return test, fingerprint(train, test)
    from dmlbench.data.images import load_of_cell  # noqa: PLC0415 - torch, which takes seconds

    dataset = load_of_cell(cell, data_dir)
    return dataset.test, dataset.fingerprint


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


def place_image(
    axes: Axes, pixels: NDArray[np.uint8], anchor: tuple[float, float], start: tuple[float, float], side: float
) -> None:
    """Draw a thumbnail next to a panel, as it is.

    Args:
        axes: The panel.
        pixels: As `thumbnail` returns them.
        anchor: A point of the panel, as shares of its width and height.
        start: Inches from it to the image's lower left corner.
        side: Inches of the image.
    """
    left, bottom = start
    image = AxesImage(
        axes, cmap="gray", interpolation="none", origin="upper", extent=(left, left + side, bottom, bottom + side)
    )
    image.set_data(pixels)
    image.set_clim(0, 255)
    image.set_transform(axes.figure.dpi_scale_trans + ScaledTranslation(*anchor, BboxTransformTo(axes.bbox)))
    axes.add_image(image)
    image.set_clip_on(False)


RIGHT, WRONG = PALETTE[2], PALETTE[1]  # bluish green and vermilion; solid and dashed say the same without colour
# In inches: the left ends of words, query and neighbours, the gap between two retrievers, an image and its row.
WORDS, QUERY, NEIGHBOURS, GAP, SIDE, ROW = 0.06, 1.56, 2.19, 0.2, 0.41, 0.5
STEP = 0.453  # from one neighbour to the next, where there are five
NAME = 24  # characters of a class's name in one line
GALLERY = ["name", "seed", "query", "hit", "rank", "neighbour", "similarity", "correct", "hits", "queries"]


def retrieval_panel(group: Group, examples: pd.DataFrame, images: Thumbnails) -> Plot:
    """Queries that a method wins and loses against its base in one seed, each with its nearest neighbours.

    Args:
        group: What both share.
        examples: Rows of `analysis.queries.retrieved`, at least one.
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
    words = {"won": f"won: {base} misses, {method} hits", "lost": f"lost: {base} hits, {method} misses"}
    parts = [(words[str(outcome)], part) for outcome, part in data.groupby("outcome", sort=False)]
    with plotting(RC):
        figure = _drawn(f"{group.title}, seed {seed}: where {method} and {base} differ", [base, method], parts, images)
    return Plot(
        figure,
        f"panel_{group.slug}_{slug(method)}_seed{seed}",
        f"Test images of {group.title} on which {method} and {base} differ in seed {seed}: those won or lost in most "
        "seeds, chosen by a fixed shuffle among equals, of different classes where there are enough. Beside each query "
        "its nearest neighbours in either space, the nearest first. Solid green: of the query's class; dashed orange: "
        "of another. Images are cut to their central square.",
        data,
    )


def gallery_panel(group: Group, examples: pd.DataFrame, images: Thumbnails) -> Plot:
    """Queries of one method in one seed, hits and misses as they come, each with its nearest neighbours.

    Args:
        group: Where the method was run.
        examples: Rows of `analysis.queries.gallery`, at least one, named, with `seed`.
        images: Thumbnails of all queries and neighbours.

    Returns:
        The figure; its data are the examples with the names of the classes.
    """
    names = pd.Series([printable(name) for name in images.class_names], dtype=object)
    classes = {"class_name": examples["label"].map(names), "neighbour_class": examples["neighbour_label"].map(names)}
    data = examples.assign(by=examples["name"], **classes)
    first = data.iloc[0]
    method, seed, hits, queries = str(first["name"]), int(first["seed"]), int(first["hits"]), int(first["queries"])
    shown = data.drop_duplicates("query")
    said = f"Hits: {hits:,} of all {queries:,} queries, {int(shown['hit'].sum())} of these {len(shown)}"
    with plotting(RC):
        figure = _drawn(f"{group.title}, seed {seed}: what {method} finds", [method], [(said, data)], images)
    return Plot(
        figure,
        f"gallery_{group.slug}_{slug(method)}_seed{seed}",
        f"Test images of {group.title} and what {method} finds nearest in seed {seed}: queries by a fixed shuffle, the "
        f"same for every method, of different classes where there are enough. {said}. Solid green: of the query's "
        "class; dashed orange: of another. Images are cut to their central square.",
        data[[*GALLERY, "class_name", "neighbour_class"]],
    )


Headed = Sequence[tuple[str, pd.DataFrame]]  # rows below a heading


def _drawn(title: str, retrievers: Sequence[str], parts: Headed, images: Thumbnails) -> Figure:
    """Everything on one pair of axes in inches from the upper left corner.

    Args:
        title: Heads the sheet.
        retrievers: Names that rows have as `by`, from left to right.
        parts: Rows below their headings.
        images: Thumbnails of all queries and neighbours.
    """
    k = int(parts[0][1]["rank"].max())
    step = STEP * min(1, 5 / k)
    ends = {by: NEIGHBOURS + (step * k + GAP) * place for place, by in enumerate(retrievers)}
    width = PAGE if len(retrievers) > 1 else NEIGHBOURS + STEP * 5 + WORDS
    lines, heads = (
        wrapped([title], width),
        {left: wrapped([f"{by}: {k} nearest"], 0.8 * step * k) for by, left in ends.items()},
    )
    above = 0.2 + LINE * (len(lines) + 1 + max(len(head) for head in heads.values()))
    said = [(wrapped([words], 0.85 * width), part) for words, part in parts]
    height = sum(0.12 + LINE * len(words) + ROW * part["query"].nunique() for words, part in said)
    figure, axes = _sheet(width, above + height + 0.04)
    _write(axes, WORDS, 0.08, "\n".join(lines), color=MUTED, size=7.5)
    _key(axes, 0.1 + LINE * len(lines))
    for left, head in [(QUERY, ["query"]), *heads.items()]:
        _write(axes, left, above - 0.07, "\n".join(head), color=INK, size=7.5, va="baseline")
    top = above
    for words, part in said:
        _write(axes, WORDS, top + 0.08, "\n".join(words), color=INK, size=7.5, weight="bold")
        top += 0.12 + LINE * len(words)
        for _, shown in part.groupby("query", sort=False):
            _describe(axes, top, shown.iloc[0])
            _image(axes, QUERY, top, SIDE, images.pixels[int(shown["query"].iloc[0])])
            _neighbours(axes, top, shown, {by: (left, step) for by, left in ends.items()}, images)
            top += ROW
    return figure


def _neighbours(
    axes: Axes, top: float, shown: pd.DataFrame, ends: Mapping[str, tuple[float, float]], images: Thumbnails
) -> None:
    """Every retriever's neighbours of one query, from its left end by its step."""
    for by, rank, neighbour, correct in shown[["by", "rank", "neighbour", "correct"]].itertuples(index=False):
        left, step = ends[by]
        side, place = SIDE * step / STEP, left + (rank - 1) * step
        _image(axes, place, top, side, images.pixels[neighbour])
        _frame(axes, place, top, side, correct=correct)


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_layout_engine("none")  # positions are fixed; without an engine to set aside, saving would start one
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
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
    outcome = "hit" if row.get("hit") else "miss"
    record = f"won {row['wins']}, lost {row['losses']} of {row['seeds']} seeds" if "wins" in row else outcome
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
