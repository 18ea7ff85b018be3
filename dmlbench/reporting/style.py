"""One look and frame for all figures: colour is the base loss; marker, line and hatch are the modifier.

Tuned values have a colour of their own where colour is no base; elsewhere labels and panel titles name them. The user's
`matplotlibrc` changes nothing, and no name is read as mathematics. A `Plot` holds a figure with its caption and data.
"""

import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmlbench.analysis.groups import BASES, MODIFIER, MODIFIERS, modifier_name, modifier_rank, rank
from dmlbench.reporting.naming import MINUS
from dmlbench.results.frames import MEAN
from dmlbench.specs.overrides import Settings

# Ink, muted ink, grid and paper stand in the SVG as these very codes; the page replaces them by its own colours,
# so that an inlined figure follows light and dark.
INK, MUTED, GRID, PAPER = "#1b1f24", "#5f6b76", "#dfe3e7", "#ffffff"
COLUMN, PAGE = 3.5, 7.0  # widths in inches: one column, and the text width of a two-column page
SCREEN = 9.5  # of what is made for a screen; on paper it is as wide as the text, with smaller letters
FILES, TUNED = INK, "#7a3fb0"  # values of the methods' files and tuned ones; no base has these colours

# Okabe and Ito (2008), "Color universal design": distinguishable with every common colour vision. Black is ink, and
# yellow is not seen on white. Wine and olive are of Tol's muted scheme (2021), for studies of more than seven bases.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#882255", "#999933")
KNOWN_COLOURS = {"ms": 0, "proxyanchor": 1, "triplet": 2, "margin": 3, "contrastive": 4}
MARKERS: tuple[Any, ...] = (  # filled ones, as one network of several is drawn hollow; (corners, 1: a star, degrees)
    "o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d",
    "*", (4, 1, 0), (4, 1, 45), (6, 1, 0), (3, 1, 0), (3, 1, 180), (3, 1, 90), (3, 1, 270),
)  # fmt: skip
LINES: tuple[Any, ...] = (
    "-", (0, (4, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)), (0, (7, 2)),
    (0, (1.2, 2.6)), (0, (5, 1.4, 1.2, 1.4, 1.2, 1.4)), (0, (9, 1.5)), (0, (3, 3)), (0, (7, 1.4, 3, 1.4)),
    (0, (2.4, 1.2)), (0, (9, 1.4, 1.2, 1.4)), (0, (2, 4)), (0, (6, 4)), (0, (9, 4)), (0, (5, 1.4, 3, 1.4)),
    (0, (3, 1.4, 1.2, 1.4)), (0, (3, 1.4, 1.2, 1.4, 1.2, 1.4)), (0, (7, 4, 1.2, 4)), (0, (3, 4, 1.2, 4)),
)  # fmt: skip
# Of a step's phases, none that of a base: a phase has its colour wherever it is drawn.
PHASES = {
    "data": "#b5b5b5", "forward": "#7da7d9", "loss": "#8fb9a8", "teacher": "#9467bd", "distillation": "#c5a3dd",
    "backward": "#3f6fa8", "optimiser": "#c49c94", "other": "#7f7f7f",
}  # fmt: skip
HATCHES = (  # lines only: dots take a megabyte of SVG
    "", "////", "\\\\\\\\", "xxxx", "||||", "----", "++++", "//", "\\\\", "xx", "||", "++",
    "--", "////--", "\\\\\\\\--", "////||", "\\\\\\\\||", "xx--", "xx||", "//--",
)  # fmt: skip

RC: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.facecolor": PAPER,
    "font.size": 8,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
}


Setting = tuple[str, Settings]  # a base or a modifier with its settings
Signed = Mapping[Any, Any] | pd.Series  # a row of a table with the columns `groups.METHOD`


@dataclass(frozen=True)
class Look:
    """Colours of bases and signs of modifiers, the same for every figure of a report."""

    bases: dict[Setting, int]
    modifiers: dict[Setting, int]

    @classmethod
    def of(cls, methods: pd.DataFrame) -> "Look":
        """Fixed slots for the known names; others take the free ones in order of their name.

        Args:
            methods: The columns `groups.METHOD` of every table that is drawn.
        """
        bases, modifiers = (
            set(methods[[name, f"{name}_settings"]].itertuples(index=False, name=None)) for name in ("base", "modifier")
        )
        signs = {name: slot for slot, name in enumerate(MODIFIERS)}
        colours = _places(bases, KNOWN_COLOURS, BASES, len(PALETTE))
        return cls(colours, _places(modifiers, signs, MODIFIERS, len(MARKERS)))

    def colour(self, row: Signed) -> str:
        """Colour of a base and of all methods built on it."""
        return PALETTE[self.bases[row["base"], row["base_settings"]] % len(PALETTE)]

    def signs(self, row: Signed) -> tuple[str, str, Any]:
        """Colour, colour within, and marker; of one network of several, or of their ensemble, it is hollow."""
        colour = self.colour(row)
        return colour, PAPER if row["network"] != MEAN else colour, MARKERS[self._sign(row) % len(MARKERS)]

    def line(self, row: Signed) -> Any:  # noqa: ANN401 - matplotlib's line style
        """Line style of a modifier; solid for a base."""
        return LINES[self._sign(row) % len(LINES)]

    def hatch(self, row: Signed) -> str:
        """Hatch of a modifier's bars."""
        return HATCHES[self._sign(row) % len(HATCHES)]

    def _sign(self, row: Signed) -> int:
        return self.modifiers[row["modifier"], row["modifier_settings"]]


def _places(
    found: Iterable[Setting], fixed: Mapping[str, int], order: tuple[str, ...], count: int
) -> dict[Setting, int]:
    """A slot for each, of which `count` differ: one with settings has that of its plain name where it is free."""
    present = sorted(found, key=lambda one: (rank(one[0], order), one[1]))
    slots = {one: fixed[one[0]] for one in present if one[0] in fixed and not one[1]}
    for one in present:
        if one not in slots and fixed.get(one[0], -1) not in {-1, *slots.values()}:
            slots[one] = fixed[one[0]]
    # New slots first, then those of known names that are not here; the first is the base's own.
    wanted = (*range(len(fixed), count), *range(1, len(fixed)))
    free = itertools.chain((slot for slot in wanted if slot not in set(slots.values())), itertools.count(count))
    return slots | {one: next(free) for one in present if one not in slots}


# Names of classes, files, methods and settings come from users: a dollar sign is a dollar sign.
NAMES_ARE_TEXT = {"text.parse_math": False}


def plotting(own: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """A context in which figures are made and drawn: matplotlib's own defaults, changed by nothing but `own`.

    Args:
        own: Settings of matplotlib (`rcParams`) for this figure.
    """
    return style.context(["default", NAMES_ARE_TEXT | dict(own or {})])


ROW = 0.24  # inches a method takes in dot plots and bar charts
LINE = 0.14  # inches a line of text takes
CHARACTERS_PER_INCH = 17.5  # of a title
LABEL = 22  # characters of a method's name in one line: more would leave no room to draw in


@dataclass(frozen=True)
class Tip:
    """What a page says where a mark is pointed at; method and dataset are what a reader may filter by."""

    method: str
    dataset: str
    text: str


@dataclass(frozen=True)
class Plot:
    """A figure with its file name, its caption and its data.

    The caption's first sentence names the figure to those who cannot see it, and the data are its description. `tips`
    are of the marks that have the key as their `gid`.
    """

    figure: Figure
    slug: str
    caption: str
    data: pd.DataFrame
    tips: Mapping[str, Tip] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The caption's first sentence."""
        return re.split(r"(?<=\.) (?=[A-Z])", self.caption, maxsplit=1)[0]


def row_canvas(names: Sequence[str], title: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure one column wide with a named row per method, the first on top, and a title in the given lines."""
    lines, labels = wrapped(title, COLUMN), [_label(name) for name in names]
    tallest = max((label.count("\n") + 1 for label in labels), default=1)
    row = max(ROW, LINE * tallest)
    figure = Figure(figsize=(COLUMN, 0.58 + LINE * len(lines) + row * max(len(labels), 1.6)))
    axes = figure.subplots()
    write_title(figure, lines)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_yticks(range(len(labels)), labels)
    return figure, axes


def panels_of_methods(
    count: int, title: Sequence[str], *, height: float, margin: float, same_scale: bool
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each of `count` methods, two side by side where there are several.

    Args:
        count: Of methods.
        title: Its lines.
        height: Inches of a panel with what is around it.
        margin: Inches of the rest of the figure, without its title.
        same_scale: Whether the panels share their vertical axis.
    """
    columns = 1 if count == 1 else 2
    width, rows = COLUMN if columns == 1 else PAGE, -(-count // columns)
    lines = wrapped(title, width)
    figure = Figure(figsize=(width, margin + LINE * len(lines) + height * rows))
    write_title(figure, lines)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=same_scale).ravel()
    for place, axes in enumerate(grid):
        axes.set_visible(place < count)
    return figure, list(grid[:count])


def write_title(figure: Figure, lines: Sequence[str]) -> None:
    """Put the title at the figure's left edge: method names take a varying part of the width."""
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=7.5, color=MUTED)


def wrapped(parts: Sequence[str], width: float) -> list[str]:
    """Lines of a title that fit a figure `width` inches wide."""
    return [line for part in parts for line in textwrap.wrap(part, round(width * CHARACTERS_PER_INCH))]


def legend_columns(handles: Sequence[Line2D], width: float) -> int:
    """As many as fit side by side in `width` inches: an inch takes 15 characters, and a sign the room of eight."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    return max(1, min(len(handles), round(15 * width) // (longest + 8)))


def legend_rows(handles: Sequence[Line2D], width: float) -> int:
    """Rows of such a legend."""
    return -(-len(handles) // legend_columns(handles, width))


def modifier_handles(methods: pd.DataFrame, look: Look, *, marks: bool = False) -> list[Line2D]:
    """Lines of the modifiers of methods, or their marks, where panels are named by the bases."""
    distinct = methods.drop_duplicates(["modifier", "modifier_settings", "network"])
    ordered = sorted(distinct.to_dict("records"), key=lambda row: modifier_rank(*(row[key] for key in MODIFIER)))
    labels = [f"+{modifier_name(row, tuned=False)}" if row["modifier"] else "base alone" for row in ordered]
    if not marks:
        styles: list[dict[str, Any]] = [{"linestyle": look.line(row)} for row in ordered]
    else:
        faces = [PAPER if row["network"] != MEAN else MUTED for row in ordered]
        shapes = [look.signs(row)[2] for row in ordered]
        styles = [
            {"linestyle": "none", "marker": shape, "markersize": 6, **edges(MUTED, face)}
            for shape, face in zip(shapes, faces, strict=True)
        ]
    return [Line2D([], [], color=MUTED, label=label, **style) for label, style in zip(labels, styles, strict=True)]


def by_setting(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of methods by the title of their panel; where nothing is tuned, all of them in one without a title.

    Signs tell methods apart, not whether their values are tuned.
    """
    tuned = rows["tuned"].astype(bool)
    if not tuned.any():
        return {"": rows}
    parts = {"files' values": rows[~tuned], "tuned": rows[tuned]}
    return {title: part for title, part in parts.items() if len(part)}


def by_panel(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The same, with a panel for each base where one would hold too many methods."""
    parts = by_setting(rows)
    if rows["name"].nunique() <= MANY:
        return parts
    bases = {title: part.groupby("base_name", sort=False) for title, part in parts.items()}
    return {", ".join(filter(None, (str(base), title))): own for title, part in bases.items() for base, own in part}


def write_panel_title(axes: Axes, title: str) -> None:
    """Put the name of a panel above its left corner."""
    if title:
        axes.set_title(title, loc="left", color=INK, fontweight="bold")


MANY = 24  # methods that a panel of named points holds
FAR = 3.0  # interquartile ranges from the middle half beyond which a mean is far out (Tukey's)
SQUASHED = 1.6  # times its length that an axis may grow by what is far out: beyond, that is off the axis
Limits = tuple[float, float]


def limits_of(estimates: pd.DataFrame, seeds: pd.Series, *, include: Sequence[float] = ()) -> Limits:
    """Ends of an axis that shows every interval and `include`, with a margin of 6%, and every seed beside them.

    A mean that is far out does not squash the others: where it would, it is off the axis, and `dot` writes its number.
    """
    means = estimates["mean"].to_numpy(float)
    first, third = np.nanquantile(means, [0.25, 0.75])
    far = FAR * (third - first)
    near = (means >= first - far) & (means <= third + far) if far > 0 else np.ones(len(means), dtype=bool)
    low, high = _ends(estimates[near])
    lowest, highest = _ends(estimates)
    if highest - lowest <= SQUASHED * (high - low):
        low, high = min(lowest, float(seeds.min())), max(highest, float(seeds.max()))
    low, high = min([low, *include]), max([high, *include])
    margin = 0.06 * (high - low) or 0.005
    return low - margin, high + margin


def cut_limits(estimates: pd.DataFrame, seeds: pd.Series) -> Limits | None:
    """`limits_of` where it leaves out a mean that is far out; None where an axis shows all, as long as it has to be."""
    limits = limits_of(estimates, seeds)
    return None if estimates["mean"].dropna().between(*limits).all() else limits


def _ends(estimates: pd.DataFrame) -> Limits:
    ends = estimates[["mean", "low", "high"]].to_numpy(float)
    return float(np.nanmin(ends)), float(np.nanmax(ends))


def dot(axes: Axes, row: pd.Series, y: float, signs: tuple[str, str, str], limits: Limits | None = None) -> None:
    """A mean with its interval, a fraction drawn in percent or points, in the row `y`; signs as `Look.signs`.

    Beyond `limits`, the axis's ends as fractions, it is an arrow with its number.
    """
    colour, face, marker = signs
    if limits and not limits[0] <= row["mean"] <= limits[1]:
        below = row["mean"] < limits[0]
        words = f"{'◂ ' * below}{100 * row['mean']:.2f}{' ▸' * (not below)}".replace("-", MINUS)
        where = axes.get_yaxis_transform()
        axes.text(float(not below), y, words, transform=where, ha="left" if below else "right", va="center_baseline",
                  fontsize=7, color=colour)  # fmt: skip
        return
    axes.plot(100 * row["mean"], y, color=colour, zorder=4, marker=marker, markersize=5, **edges(colour, face))
    if row["n"] > 1:
        bounds = 100 * error_bounds(row)
        axes.errorbar(100 * row["mean"], y, xerr=bounds, color=colour, capsize=2.2, linewidth=1.2, zorder=3)


class Edges(TypedDict):
    """The keywords of matplotlib that draw a marker's edge and inside."""

    markerfacecolor: str
    markeredgecolor: str
    markeredgewidth: float


def edges(colour: str, face: str) -> Edges:
    """How a marker is drawn: full with an edge of paper, or hollow."""
    return {"markerfacecolor": face, "markeredgecolor": PAPER if face == colour else colour, "markeredgewidth": 0.6}


def signed_ticks(axis: Axis) -> None:
    """Numbers of differences with their sign."""
    axis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", MINUS) if abs(value) > 1e-9 else "0")


def error_bounds(row: pd.Series) -> np.ndarray:
    """Distances from the mean to the bounds of its interval, as matplotlib's error bars want them."""
    return np.array([[row["mean"] - row["low"]], [row["high"] - row["mean"]]], dtype=float)


def _label(name: str) -> str:
    if len(name) <= LABEL:
        return name
    bare = name.removesuffix("*")  # the star of a verdict takes no room, and no line of its own
    lines = [""]
    for token in re.split(r"(?=[+{])", bare):  # base, modifier, braces: none that fits a line is broken
        whole = [token] if len(token) <= LABEL else textwrap.wrap(token, LABEL)
        if len(lines[-1]) + len(whole[0]) <= LABEL:
            lines[-1] += whole.pop(0)
        lines += whole
    return "\n".join(lines) + name[len(bare) :]
