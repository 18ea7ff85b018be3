"""On which test classes a method gains over its reference, and on which it loses."""

import pandas as pd
from matplotlib.axes import Axes

from dmlbench.analysis.groups import Group, in_order
from dmlbench.errors import printable
from dmlbench.reporting.figures.panels import Thumbnails, place_image
from dmlbench.reporting.naming import points
from dmlbench.reporting.style import (
    INK,
    MUTED,
    RC,
    Look,
    Plot,
    panels_of_methods,
    plotting,
    signed_ticks,
    write_panel_title,
)

ENDS = 3  # classes that are named at either end
NAME = 28  # characters of a class's name
PANEL, IMAGES, SIDE = 1.6, 0.5, 0.42  # inches of a panel, of a row of images, and of an image


def ends_of(gains: pd.DataFrame) -> pd.DataFrame:
    """The classes with the largest losses and gains of every method: the rows that a figure names."""
    losers = gains[gains["gain"] < 0].groupby("name", sort=False).head(ENDS)
    gainers = gains[gains["gain"] > 0].groupby("name", sort=False).tail(ENDS)
    return pd.concat([losers, gainers])


def class_gain_plot(group: Group, gains: pd.DataFrame, look: Look, images: Thumbnails | None = None) -> Plot:
    """Difference in R@1 on each test class, sorted: a panel per method, with the classes at its ends.

    Args:
        group: What all methods share.
        gains: Rows of `queries.class_gains` of this group, named, with the names of the classes.
        look: Colours.
        images: With the first query of the classes of `ends_of`; None for none.
    """
    methods = in_order(gains.drop_duplicates("name"))
    with plotting(RC):
        title = [group.title, "difference in R@1 by test class, sorted; last epoch, mean over seeds"]
        height = PANEL + (IMAGES if images else 0)
        figure, panels = panels_of_methods(len(methods), title, height=height, margin=0.3, same_scale=True)
        for axes, (_, method) in zip(panels, methods.iterrows(), strict=True):
            own = gains[gains["name"] == method["name"]].reset_index(drop=True)
            write_panel_title(axes, str(method["name"]))
            _bars(axes, own, look.colour(method))
            _ends(axes, own)
            if images:
                _pictures(axes, own, images)
        figure.supylabel("difference (points)", fontsize=8, color=INK)
    return Plot(
        figure,
        f"classes_{group.slug}",
        f"Difference in R@1 to the reference on each test class of {group.title}, sorted. Named: the {ENDS} largest "
        "losses and gains. Few queries of a class decide its bar, so single classes are examples, no findings.",
        gains[["name", "to_name", "label", "class_name", "gain", "queries", "seeds"]],
    )


def _bars(axes: Axes, own: pd.DataFrame, colour: str) -> None:
    axes.bar(own.index, 100 * own["gain"], width=1.0, color=colour, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.grid(axis="y")
    axes.set_xlim(-0.5, len(own) - 0.5)
    axes.set_xticks([])
    gained, lost = int((own["gain"] > 0).sum()), int((own["gain"] < 0).sum())
    axes.set_xlabel(f"{len(own)} test classes: {lost} lose, {gained} gain", fontsize=7)
    signed_ticks(axes.yaxis)


def _ends(axes: Axes, own: pd.DataFrame) -> None:
    """The names of the classes at either end."""
    ends = ends_of(own)
    for kept, left, side in ((ends[ends["gain"] < 0], 0.02, "left"), (ends[ends["gain"] > 0], 0.98, "right")):
        said = [f"{printable(row['class_name'])[:NAME]} {points(row['gain'])}" for row in kept.to_dict("records")]
        top = 0.97 if side == "left" else 0.03
        axes.text(left, top, "\n".join(said), transform=axes.transAxes, fontsize=5.5, color=MUTED, ha=side,
                  va="top" if side == "left" else "bottom")  # fmt: skip


def _pictures(axes: Axes, own: pd.DataFrame, images: Thumbnails) -> None:
    """An image of each of these classes below the panel, and its label below them."""
    axes.xaxis.labelpad = 72 * IMAGES
    ends = ends_of(own)
    losers, gainers = ends.loc[ends["gain"] < 0, "image"], ends.loc[ends["gain"] > 0, "image"]
    for chosen, end, first in (losers, 0, 0), (gainers, 1, -len(gainers)):
        for place, image in enumerate(chosen, first):
            place_image(axes, images.pixels[int(image)], (end, 0), (1.08 * SIDE * place, -0.06 - SIDE), SIDE)
