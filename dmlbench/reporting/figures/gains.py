"""The gain matrix: a panel per modifier, a row per base, so that a whole study is read at one glance."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import base_name, in_order, modifier_name
from dmlbench.errors import counted
from dmlbench.reporting.naming import metric_name, plain, points
from dmlbench.reporting.style import (
    FILES,
    GRID,
    INK,
    LINE,
    MUTED,
    PAPER,
    RC,
    SCREEN,
    SQUASHED,
    TUNED,
    Plot,
    Tip,
    plotting,
    signed_ticks,
    wrapped,
    write_title,
)
from dmlbench.results.frames import MEAN

ROW, ROW_OF_TWO = 0.17, 0.25  # inches a row takes, and one that has a tuned value below the files'
PANEL, NARROWEST = 1.9, 0.98  # inches a panel takes at most and at least
LABELS = 0.062  # inches that a character of a row's label takes
REACH = 0.9  # share of the estimates that the axis shows whole; those beyond become arrows
TITLE = 20  # characters of a panel's title in a line
SMALL = 8.5  # points a line of small text takes


@dataclass(frozen=True)
class Gains:
    """What a gain matrix shows.

    Attributes:
        title: Protocol, and the dataset where there is one.
        slug: The same for file names.
        compared: Rows of `precedence.with_claims` of one protocol, selection and metric; a row's `dataset` is where.
        ratios: Rows of `precedence.with_interleaved` of the same protocol.
        effects: The declared smallest effect of a modifier, a fraction; by "" of those without a claim.
    """

    title: str
    slug: str
    compared: pd.DataFrame
    ratios: pd.DataFrame
    effects: Mapping[str, float]

    def effect(self, modifier: str) -> float:
        """The smallest effect of interest of a modifier, in points."""
        return 100 * self.effects.get(modifier, self.effects[""])


def gain_plot(gains: Gains) -> Plot:
    """Difference of every method to its reference: points with intervals, files' and tuned values in two colours."""
    compared = in_order(gains.compared)
    panels, rows = _panels(compared), _rows(compared)
    metric, limit = metric_name(str(compared["metric"].iloc[0])), _limit(compared, max(map(gains.effect, panels)))
    selection = SELECTIONS[str(compared["selection"].iloc[0])]
    tips: dict[str, Tip] = {}
    with plotting(RC):
        heads = {modifier: _head(own, gains.ratios) for modifier, own in panels.items()}
        figure, grid = _canvas(rows, len(panels), bool(compared["tuned"].any()), [f"{gains.title}; {selection}"], heads)
        for axes, (modifier, own) in zip(grid, panels.items(), strict=False):
            _write_head(axes, *heads[modifier], max(len(lines) for _, lines in heads.values()))
            effect = gains.effect(str(own["modifier"].iloc[0]))
            axes.axvspan(-effect, effect, color=GRID, alpha=0.55, linewidth=0, zorder=0)
            for row in own.to_dict("records"):
                y = rows.index((base_name(row, tuned=False), row["dataset"]))
                shift = 0.0 if not compared["tuned"].any() else 0.17 if row["tuned"] else -0.17
                _estimate(axes, y + shift, row, limit, tips)
            axes.set_xlim(-limit, limit)
        figure.supxlabel(f"{metric}, difference to the reference (points)", fontsize=8, color=INK)
        _legend(figure, compared)
    return Plot(
        figure,
        f"gains_{gains.slug}",
        _caption(metric, gains, compared, limit),
        compared[["name", "to_name", "dataset", "mean", "low", "high", "all_low", "all_high", "n", "verdict"]],
        tips,
    )


def _caption(metric: str, gains: Gains, compared: pd.DataFrame, limit: float) -> str:
    bands = sorted({gains.effect(str(modifier)) for modifier in compared["modifier"]})
    beyond = int((100 * compared["mean"].abs() > limit).sum())
    ends = 100 * compared[["all_low", "all_high"]].abs().max(axis="columns")
    cut = int(((ends > limit) & (100 * compared["mean"].abs() <= limit)).sum())
    squares = "square: an ensemble, against one network; " if (compared["network"] != MEAN).any() else ""
    test = " (by a claim's own test where it names them)" if compared["claimed"].any() else ""
    return (
        f"Mean difference in {metric} to the reference, paired by seed. Thick: 95% t-interval; thin: simultaneous "
        f"interval; filled: better or worse{test}, even where a thin line crosses 0; {squares}grey band: less than the "
        f"smallest effect of interest ({' or '.join(f'{effect:g}' for effect in bands)} "
        f"{'point' if bands == [1.0] else 'points'})."
        + _about_steps(gains.ratios[gains.ratios["name"].isin(compared["name"]) & (gains.ratios["n"] > 0)])
        + (f" Arrows: {beyond} beyond the axis, with their number." if beyond else "")
        + (f" The axis cuts {counted(cut, 'thin line')}." if cut else "")
    )


def _about_steps(ratios: pd.DataFrame) -> str:
    """What the heads of panels say of step times, if anything."""
    interleaved = "; *: interleaved steps" if ratios["interleaved"].any() else ""
    where = f" Step: its time over the reference's, from end to end of the 95% intervals{interleaved}."
    return where if len(ratios) else ""


def _panels(compared: pd.DataFrame) -> dict[str, pd.DataFrame]:
    names = [modifier_name(row, tuned=False) for row in compared.to_dict("records")]
    of_modifier = ["modifier", "modifier_settings", "network"]
    firsts = in_order(compared.assign(panel=names).drop_duplicates(of_modifier).assign(base="", tuned=False))
    return {name: compared[[own == name for own in names]] for name in dict.fromkeys(firsts["panel"])}


def _rows(compared: pd.DataFrame) -> list[tuple[str, str]]:
    bases = dict.fromkeys(base_name(row, tuned=False) for row in compared.to_dict("records"))
    there = {(base_name(row, tuned=False), row["dataset"]) for row in compared.to_dict("records")}
    return [(base, name) for base in bases for name in sorted(set(compared["dataset"])) if (base, name) in there]


def _limit(compared: pd.DataFrame, effect: float) -> float:
    """Where the axis ends: most estimates are whole on it, so that one that fell far does not squash the rest."""
    means = 100 * compared["mean"].abs()
    ends = 100 * compared[["low", "high"]].abs().max(axis="columns").fillna(compared["mean"].abs())
    most = float(np.quantile(ends, REACH, method="lower"))
    whole = float(ends.max())
    limit = max(whole if whole <= SQUASHED * most else most, float(means.median()), 1.5 * effect)
    return 1.08 * max(limit, float(ends[means <= 1.08 * limit].max()))


def _canvas(
    rows: Sequence[tuple[str, str]],
    count: int,
    tuned: bool,
    title: Sequence[str],
    heads: Mapping[str, tuple[str, list[str]]],
) -> tuple[Figure, list[Axes]]:
    labels = _labels(rows)
    aside = 0.15 + LABELS * max(map(len, labels))
    lines = -(-count // max(1, int((SCREEN - aside) / NARROWEST)))
    columns = -(-count // lines)
    width = min(SCREEN, max(3.5, aside + PANEL * columns))
    top = SMALL / 72 * (2 + max(len(head) for _, head in heads.values()))
    row = (ROW_OF_TWO if tuned else ROW) * max(len(rows), 2)
    height = 0.5 + LINE * len(wrapped(title, width)) + lines * (row + top + 0.22)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.03))
    grid = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel())
    write_title(figure, wrapped(title, width))
    bounds = [place for place, (one, other) in enumerate(pairwise(rows)) if one[0] != other[0]]
    for place, axes in enumerate(grid):
        axes.set_visible(place < count)
        _style(axes, bounds if len(bounds) + 1 < len(rows) else [])
        axes.tick_params(labelbottom=place + columns >= count)
    grid[0].set_ylim(len(rows) - 0.4, -0.6)
    grid[0].set_yticks(range(len(rows)), labels)
    return figure, grid


def _style(axes: Axes, bounds: Sequence[int]) -> None:
    axes.grid(axis="x")
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=3))
    signed_ticks(axes.xaxis)
    for place in bounds:
        axes.axhline(place + 0.5, color=GRID, linewidth=0.6, zorder=0)


def _labels(rows: Sequence[tuple[str, str]]) -> list[str]:
    """A base's name once, and its datasets where there are several."""
    if len({dataset for _, dataset in rows}) == 1:
        return [base for base, _ in rows]
    firsts = dict(reversed(rows))
    return [f"{base}   {dataset}" if firsts[base] == dataset else dataset for base, dataset in rows]


def _head(panel: pd.DataFrame, ratios: pd.DataFrame) -> tuple[str, list[str]]:
    """A panel's name, and in small lines its settings and what a step costs."""
    row = panel.iloc[0]
    name, *settings = re.split(r"(?=\{)", modifier_name(row, tuned=False)) if row["modifier"] else ["no modifier"]
    cost = _step(panel, ratios[ratios["name"].isin(panel["name"]) & (ratios["n"] > 0)])
    lines = [line for setting in settings for line in textwrap.wrap(setting, TITLE)]
    return f"+{name}" if row["modifier"] else name, [*lines, cost]


def _step(panel: pd.DataFrame, ratios: pd.DataFrame) -> str:
    """What a step costs: from the lowest to the highest end of the intervals, for single estimates may be noise.

    Where steps were measured interleaved, those alone, with the base where that is one of several.
    """
    measured = ratios[ratios["interleaved"]]
    own = measured if len(measured) else ratios
    if own.empty:
        return "step not timed"
    low, high = (plain(float(own[end].fillna(own["mean"]).agg(way))) for end, way in (("low", "min"), ("high", "max")))
    bases = list(dict.fromkeys(own["base_name"]))
    where = f", {bases[0]}" if len(bases) == 1 < panel["base"].nunique() else ""
    sign = "*" if len(measured) else ""
    return (f"step {low}×" if low == high else f"step {low}–{high}×") + sign + where


def _write_head(axes: Axes, name: str, lines: Sequence[str], most: int) -> None:
    axes.set_title("\n".join(lines), loc="left", fontsize=6, color=MUTED)
    where = (0, 4 + SMALL * most)
    axes.annotate(name, (0, 1), where, xycoords="axes fraction", textcoords="offset points", fontweight="bold")


def _estimate(axes: Axes, y: float, row: Mapping[Any, Any], limit: float, tips: dict[str, Tip]) -> None:
    colour, mean = TUNED if row["tuned"] else FILES, 100 * row["mean"]
    beyond = abs(mean) > limit
    ends = [np.clip(100 * np.array([row[f"{kind}low"], row[f"{kind}high"]]), -limit, limit) for kind in ("", "all_")]
    for width, bounds in () if beyond else zip((1.7, 0.6), ends, strict=True):
        axes.plot(bounds, [y, y], color=colour, linewidth=width, solid_capstyle="butt", zorder=3)
    face = colour if row["verdict"] in ("better", "worse") else PAPER
    marker = ("<" if mean < 0 else ">") if beyond else "o" if row["network"] == MEAN else "s"
    (point,) = axes.plot(
        np.clip(mean, -0.97 * limit, 0.97 * limit), y, marker=marker, markersize=4.2, zorder=4, color=colour,
        markerfacecolor=face, markeredgecolor=colour, markeredgewidth=0.9, clip_on=False,
    )  # fmt: skip
    if beyond:
        side = "left" if mean < 0 else "right"
        place = (5 if mean < 0 else -5, 0)
        axes.annotate(
            f"{points(row['mean'])}", (np.sign(mean) * 0.97 * limit, y), place, textcoords="offset points",
            ha=side, va="center_baseline", fontsize=6.5, color=colour, zorder=5,
        )  # fmt: skip
    mark = f"tip-{len(tips)}"
    point.set_gid(mark)
    tips[mark] = Tip(str(row["name"]), str(row["dataset"]), _spoken(row))


def _spoken(row: Mapping[Any, Any]) -> str:
    several = row["n"] > 1
    interval = f" [{points(row['low'])}, {points(row['high'])}]" if several else ""
    together = f", simultaneous [{points(row['all_low'])}, {points(row['all_high'])}]" if several else ""
    found = f"{points(row['mean'])} points{interval}{together}; {row['n']} seeds; {row['verdict'] or 'too few seeds'}"
    return f"{row['name']} against {row['to_name']} on {row['dataset']}: {found}"


def _legend(figure: Figure, compared: pd.DataFrame) -> None:
    """Which colour is which, where there are two."""
    if compared["tuned"].any():
        handles = [
            Line2D([], [], color=colour, marker="o", markersize=4, label=label)
            for colour, label in ((FILES, "files' values"), (TUNED, "tuned values"))
        ]
        figure.legend(handles=handles, loc="upper right", ncols=2, borderpad=0.1)
