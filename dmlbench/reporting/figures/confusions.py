"""Which test classes a method takes for one another, and which its reference."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.groups import METHOD, OTHER, Group, in_order
from dmlbench.errors import printable
from dmlbench.reporting.figures.panels import Thumbnails, place_image
from dmlbench.reporting.style import (
    MUTED,
    PAPER,
    RC,
    Look,
    Plot,
    panels_of_methods,
    plotting,
    write_panel_title,
)

ROW, SIDE = 0.27, 0.23  # inches of a pair of classes, and of an image
NAME = 26  # characters of a class's name
SHOWN = ["name", "to_name", "label", "other_label", "class_name", "other_class_name", "confused", "confused_to"]


def confusion_plot(group: Group, confused: pd.DataFrame, look: Look, images: Thumbnails | None = None) -> Plot:
    """The pairs of test classes that are confused most: a panel per method, a dot for it and one for its reference.

    Args:
        group: What all methods share.
        confused: Rows of `queries.confusions` of this group, named, with the names of the classes.
        look: Colours.
        images: With the first image of each class, `image` and `other_image`; None for none.
    """
    methods = in_order(confused.drop_duplicates("name"))
    with plotting(RC):
        title = [group.title, "pairs of test classes taken for one another most often; last epoch, mean over seeds"]
        most = int(confused.groupby("name").size().max())
        height = ROW * most + 0.35
        figure, panels = panels_of_methods(len(methods), title, height=height, margin=0.65, same_scale=False)
        for axes, (_, method) in zip(panels, methods.iterrows(), strict=True):
            own = confused[confused["name"] == method["name"]].reset_index(drop=True)
            write_panel_title(axes, str(method["name"]))
            _dumbbells(axes, own, look, most)
            if images:
                _pictures(axes, own, images)
        figure.supxlabel("queries of either class that find the other first", fontsize=8)
        _legend(figure)
    return Plot(
        figure,
        f"confusions_{group.slug}",
        f"Pairs of test classes of {group.title} that a method or its reference takes for one another most often: "
        "queries of either class whose nearest neighbour is of the other, both directions together. A method's pairs "
        "are those with the most by it or by its reference, whichever has more; they are examples, no findings.",
        confused[[*SHOWN, "queries", "seeds"]],
    )


def _dumbbells(axes: Axes, own: pd.DataFrame, look: Look, most: int) -> None:
    for place, row in enumerate(own.to_dict("records")):
        reference = {name: row[its] for name, its in zip(METHOD, OTHER, strict=True)}
        colour, other = look.colour(row), look.colour(reference)
        axes.plot([row["confused_to"], row["confused"]], [place, place], color=MUTED, linewidth=1, zorder=2)
        axes.plot(row["confused_to"], place, "o", color=other, markersize=4.6, markerfacecolor=PAPER, zorder=3)
        axes.plot(row["confused"], place, "o", color=colour, markersize=3.4, markeredgewidth=0, zorder=4)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 1.08 * max(1.0, float(own[["confused", "confused_to"]].to_numpy().max())))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.set_ylim(most - 0.5, -0.5)
    labels = [f"{_cut(row['class_name'])}\n{_cut(row['other_class_name'])}" for row in own.to_dict("records")]
    axes.set_yticks(range(len(own)), labels, fontsize=5.5)


def _cut(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= NAME else f"{shown[: NAME - 1]}…"


def _pictures(axes: Axes, own: pd.DataFrame, images: Thumbnails) -> None:
    """The two classes' images at the left of each row, between it and its label."""
    axes.tick_params(axis="y", pad=72 * 2.2 * SIDE + 2)
    low, high = axes.get_ylim()
    for place, row in enumerate(own.to_dict("records")):
        height = (place - low) / (high - low)
        for number, image in enumerate((row["image"], row["other_image"]), -2):
            place_image(axes, images.pixels[int(image)], (0, height), (1.1 * SIDE * number, -SIDE / 2), SIDE)


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=MUTED, marker="o", linestyle="none", markersize=size, markerfacecolor=face, label=label)
        for label, size, face in (("method", 4, MUTED), ("its reference", 4.6, PAPER))
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=2, handletextpad=0.1, columnspacing=1)
