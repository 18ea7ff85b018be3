"""Maps of the test embeddings: an illustration, a panel per method."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from dmlbench.analysis.groups import Group, in_order
from dmlbench.errors import counted, printable
from dmlbench.reporting.style import (
    INK,
    LINE,
    MUTED,
    PAGE,
    RC,
    Plot,
    legend_columns,
    legend_rows,
    plotting,
    wrapped,
    write_panel_title,
    write_title,
)

COLUMNS, PANEL = 3, 2.2  # panels side by side, and inches of each
NAME = 26  # characters of a class's name
LETTERS = "ABCDEFGHKM"  # of the classes, `CLASSES` at most: no two alike


def map_plot(group: Group, places: pd.DataFrame, left_out: int) -> Plot:
    """Where t-SNE puts some images of a few classes: the same in every panel, a letter for each class.

    Args:
        group: What all methods share.
        places: Rows of `maps.embedding_map` of every method, named, with `seed` and `class_name`.
        left_out: How many methods that kept their embeddings have no panel.
    """
    methods = in_order(places.drop_duplicates("name"))
    letters = dict(zip(sorted(places["label"].unique()), LETTERS, strict=False))
    columns = min(COLUMNS, len(methods))
    with plotting(RC):
        lines = wrapped([group.title, "map of test embeddings by t-SNE, last epoch: an illustration"], PAGE)
        legend = _handles(places, letters)
        rows = -(-len(methods) // columns)
        height = 0.2 + LINE * (len(lines) + 1.1 * legend_rows(legend, PAGE)) + (PANEL + 0.15) * rows
        figure = Figure(figsize=(PAGE, height))
        write_title(figure, lines)
        grid = figure.subplots(rows, COLUMNS, squeeze=False)
        for axes in grid.ravel()[len(methods) :]:
            axes.set_visible(False)
        for axes, (_, method) in zip(grid.ravel(), methods.iterrows(), strict=False):
            own = places[places["name"] == method["name"]]
            write_panel_title(axes, str(method["name"]))
            _points(axes, own, letters)
        figure.legend(handles=legend, loc="outside lower center", ncols=legend_columns(legend, PAGE), handletextpad=0.2)
    return Plot(
        figure,
        f"map_{group.slug}",
        _caption(group, places, left_out),
        places[["name", "seed", "label", "class_name", "image", "x", "y"]],
    )


def _caption(group: Group, places: pd.DataFrame, left_out: int) -> str:
    images = places.groupby("name").size().max()
    seeds = sorted(set(places["seed"]))
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else "each method's lowest seed"
    more = f" Panels go to bases first, then to modifiers in their order; without one: {counted(left_out, 'method')}."
    return (
        f"Map of test embeddings of {group.title}, {seed}: an illustration, no finding. t-SNE of cosine distances of "
        f"{images} images of {counted(places['label'].nunique(), 'class', 'classes')}, every n-th one, the same in all "
        "panels, a letter each. Only who is near whom means something: distances between groups, their sizes and their "
        f"places mean nothing.{more if left_out else ''}"
    )


def _points(axes: Axes, own: pd.DataFrame, letters: dict[int, str]) -> None:
    for label, letter in letters.items():
        part = own[own["label"] == label]
        axes.plot(part["x"], part["y"], linestyle="none", **_style(letter), markersize=4)
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axes.spines[:].set_visible(True)


def _style(letter: str) -> dict[str, Any]:
    """A class's sign: its letter, every other one muted. No colours: these are of methods."""
    colour = MUTED if LETTERS.index(letter) % 2 else INK
    outline = TextPath((0, 0), letter, size=10, prop=FontProperties(weight="bold"))
    ends = outline.get_extents()
    centred = outline.transformed(Affine2D().translate(-(ends.x0 + ends.x1) / 2, -(ends.y0 + ends.y1) / 2))
    return {"marker": centred, "color": colour, "markeredgewidth": 0}


def _handles(places: pd.DataFrame, letters: dict[int, str]) -> list[Line2D]:
    names = places.drop_duplicates("label").set_index("label")["class_name"]
    return [
        Line2D([], [], linestyle="none", markersize=5, label=printable(str(names[label]))[:NAME], **_style(letter))
        for label, letter in letters.items()
    ]
