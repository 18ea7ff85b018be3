"""What all figures share: their frame, title, axis ends, and their content in words."""

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmlbench.analysis.groups import MODIFIER, modifier_name, modifier_rank
from dmlbench.reporting.naming import MINUS
from dmlbench.reporting.style import COLUMN, INK, MUTED, PAPER, Look

ROW = 0.24  # inches a method takes in dot plots and bar charts
LINE = 0.14  # inches a line of text takes
CHARACTERS_PER_INCH = 17.5  # of a title
LABEL = 22  # characters of a method's name in one line: more would leave no room to draw in


@dataclass(frozen=True)
class Plot:
    """A figure with its file name, its caption, its content in words for those who cannot see it, and its data."""

    figure: Figure
    slug: str
    caption: str
    alt: str
    data: pd.DataFrame


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


def modifier_handles(methods: pd.DataFrame, look: Look) -> list[Line2D]:
    """Lines of the modifiers of methods, where panels are named by the bases."""
    distinct = methods.drop_duplicates(["modifier", "modifier_settings", "network"])
    ordered = sorted(distinct.to_dict("records"), key=lambda row: modifier_rank(*(row[key] for key in MODIFIER)))
    labels = [f"+{modifier_name(row, tuned=False)}" if row["modifier"] else "base alone" for row in ordered]
    lines = map(look.line, ordered)
    return [Line2D([], [], color=MUTED, linestyle=line, label=label) for line, label in zip(lines, labels, strict=True)]


def by_setting(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of methods by the title of their panel; where nothing is tuned, all of them in one without a title.

    Signs tell methods apart, not whether their values are tuned.
    """
    tuned = rows["tuned"].astype(bool)
    if not tuned.any():
        return {"": rows}
    parts = {"files' values": rows[~tuned], "tuned": rows[tuned]}
    return {title: part for title, part in parts.items() if len(part)}


def write_panel_title(axes: Axes, title: str) -> None:
    """Put the name of a panel above its left corner."""
    if title:
        axes.set_title(title, loc="left", color=INK, fontweight="bold")


def limits_of(estimates: pd.DataFrame, seeds: pd.Series, *, include: Sequence[float] = ()) -> tuple[float, float]:
    """Ends of an axis that shows every seed, every interval and `include`, with a margin of 6%."""
    bounds = [estimates[column].to_numpy(float) for column in ("mean", "low", "high")]
    numbers = np.concatenate([*bounds, seeds.to_numpy(float), np.asarray(include, float)])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    margin = 0.06 * (high - low) or 0.005
    return low - margin, high + margin


def dot(axes: Axes, row: pd.Series, y: float, signs: tuple[str, str, str]) -> None:
    """A mean with its interval, a fraction drawn in percent or points, in the row `y`; signs as `Look.signs`."""
    colour, face, marker = signs
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


def spoken(rows: pd.DataFrame, write: Callable[[float], str], unit: str, of: str = "seeds") -> str:
    """Rows of estimates in words: `ms 62.45% (95% interval 61.90 to 63.01, 5 seeds); ...`; `of` names what n counts."""
    return "; ".join(_spoken(row, write, unit, of) for _, row in rows.iterrows())


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


def _spoken(row: pd.Series, write: Callable[[float], str], unit: str, of: str) -> str:
    said = f"{row['name']} {write(row['mean'])}{unit}"
    if row["n"] < 2:
        return f"{said} (one {of.removesuffix('s')})"
    return f"{said} (95% interval {write(row['low'])} to {write(row['high'])}, {row['n']} {of})"
