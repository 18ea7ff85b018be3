"""Accuracy, difference to the base, and overhead: one figure per protocol, dataset and choice of the epoch."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from seaborn import swarmplot

from dmlbench.analysis.groups import Group
from dmlbench.report.canvas import Plot, error_bounds, row_canvas, spoken
from dmlbench.report.naming import MINUS, in_order, metric_name, percent, points, ratio
from dmlbench.report.style import INK, MUTED, PAPER, RC, Look
from dmlbench.report.tables import SELECTIONS

Limits = tuple[float, float]


def accuracy_plot(
    group: Group,
    selection: str,
    estimates: pd.DataFrame,
    values: pd.DataFrame,
    *,
    untrained: float,
    look: Look,
    limits: Limits,
) -> Plot:
    """Mean of every method with its 95% t-interval, seeds faint, the untrained network for reference.

    Args:
        group: What all methods share.
        selection: How the epoch was chosen, a key of `SELECTIONS`.
        estimates: Rows of `tables.accuracy` for one metric: one per method.
        values: Rows of `tables.seed_values` for the same metric: one per method and seed.
        untrained: The metric of the untrained network, a fraction; NaN where it was not measured.
        look: Colours and markers.
        limits: Ends of the axis as fractions, the same for all selections of a group.
    """
    metric, rows = metric_name(str(estimates["metric"].iloc[0])), in_order(estimates)
    measured = not math.isnan(untrained)
    with rc_context(RC):
        title = [group.title, SELECTIONS[selection], "mean, 95% t-interval, seeds"]
        figure, axes = row_canvas([*rows["method"], *(["untrained"] if measured else [])], title)
        _dots(axes, rows, {str(name): part["value"] for name, part in values.groupby("method")}, look)
        axes.set_xlim(100 * limits[0], 100 * limits[1])
        axes.set_xlabel(f"{metric} (%)")
        if measured:
            _untrained(axes, len(rows), 100 * untrained)
    reference = f" The untrained network has {percent(untrained)}%." if measured else ""
    return Plot(
        figure,
        f"accuracy_{group.slug}_{selection}",
        f"{metric} on {group.title}; {SELECTIONS[selection]}. Large marks: means with 95% t-intervals over seeds; "
        "small dots: seeds; grey: the untrained network.",
        f"{metric} on {group.title}, {SELECTIONS[selection]}: {spoken(rows, percent, '%')}.{reference}",
    )


def difference_plot(
    group: Group,
    selection: str,
    estimates: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    look: Look,
    limits: Limits,
) -> Plot:
    """Difference of every modified method to its own base, paired by seed, around a zero line.

    Args:
        group: What all methods share.
        selection: How the epoch was chosen, a key of `SELECTIONS`.
        estimates: Rows of `tables.differences` for one metric: one per method.
        pairs: Rows of `tables.seed_differences` for the same metric: one per method and seed.
        look: Colours and markers.
        limits: Ends of the axis as fractions, the same for all selections of a group.
    """
    metric, rows = metric_name(str(estimates["metric"].iloc[0])), in_order(estimates)
    seeds = {str(name): part["value"] - part["value_base"] for name, part in pairs.groupby("method")}
    said = spoken(rows, points, " points")
    with rc_context(RC):
        title = [group.title, SELECTIONS[selection], "mean paired difference, 95% t-interval, seeds"]
        figure, axes = row_canvas(list(rows["method"]), title)
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        _dots(axes, rows, seeds, look)
        axes.set_xlim(100 * limits[0], 100 * limits[1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", MINUS) if value else "0")
        axes.set_xlabel(f"{metric}, difference to base (points)")
    return Plot(
        figure,
        f"difference_{group.slug}_{selection}",
        f"Difference in {metric} to the method's own base on {group.title}; {SELECTIONS[selection]}. Large marks: mean "
        "paired differences with 95% t-intervals; small dots: seeds.",
        f"Difference in {metric} to the base on {group.title}, {SELECTIONS[selection]}: {said}.",
    )


def overhead_plot(group: Group, ratios: pd.DataFrame, look: Look) -> Plot:
    """Step time of every modified method as a ratio to its base's.

    Args:
        group: What all methods share.
        ratios: Rows of `overhead.overhead` with at least one pair.
        look: Colours and hatches.
    """
    rows = in_order(ratios)
    with rc_context(RC):
        figure, axes = row_canvas(list(rows["method"]), [group.title, "geometric mean, 95% t-interval over seeds"])
        for place, (_, row) in enumerate(rows.iterrows()):
            _bar(axes, place, row, look)
        axes.axvline(1, color=INK, linewidth=0.9, zorder=4)
        ends = rows[["mean", "low", "high"]].to_numpy(float)
        low, high = min(1.0, np.nanmin(ends)), max(1.02, np.nanmax(ends))
        axes.set_xlim(low - 0.03 * (high - low), high + 0.22 * (high - low))  # room for the ratio in words
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=4))
        axes.set_xlabel("training-step time relative to base")
    return Plot(
        figure,
        f"overhead_{group.slug}",
        f"Training-step time on {group.title} as a ratio to the method's own base: geometric means over seeds with 95% "
        "t-intervals; 1 is no overhead.",
        f"Step time relative to the base on {group.title}: {spoken(rows, ratio, ' times')}.",
    )


def _dots(axes: Axes, rows: pd.DataFrame, seeds: dict[str, pd.Series], look: Look) -> None:
    for place, (_, row) in enumerate(rows.iterrows()):
        colour = look.colour(row["base"])
        _swarm(axes, 100 * seeds[row["method"]].to_numpy(float), place + 0.22, colour)
        mark: dict[str, Any] = {
            "marker": look.marker(row["modifier"]),
            "markersize": 5,
            "markeredgecolor": PAPER,
            "markeredgewidth": 0.6,
        }
        axes.plot(100 * row["mean"], place - 0.08, color=colour, zorder=4, **mark)
        if row["n"] > 1:
            bounds = 100 * error_bounds(row)
            axes.errorbar(
                100 * row["mean"], place - 0.08, xerr=bounds, color=colour, capsize=2.2, linewidth=1.2, zorder=3
            )
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=4))


def _swarm(axes: Axes, values: np.ndarray, place: float, colour: str) -> None:
    """Seeds as faint dots that never hide one another."""
    ticks = axes.get_yticks(), [label.get_text() for label in axes.get_yticklabels()]
    faint: dict[str, Any] = {"alpha": 0.55, "size": 2.2, "linewidth": 0, "zorder": 2, "warn_thresh": 1.0}
    swarmplot(x=values, y=np.full(len(values), place), orient="h", native_scale=True, color=colour, ax=axes, **faint)
    axes.set_yticks(*ticks)  # seaborn would name this row alone


def _untrained(axes: Axes, place: int, untrained: float) -> None:
    """A row and a line for the untrained network; only its number where it lies off the axis.

    An axis that reaches down to an untrained network would squash the differences between methods.
    """
    low, high = axes.get_xlim()
    if low <= untrained <= high:
        axes.axvline(untrained, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
        axes.plot(untrained, place, "|", color=MUTED, markersize=7, zorder=3)
        return
    edge, side, sign = (0.0, "left", "◂ {}") if untrained < low else (1.0, "right", "{} ▸")
    words = sign.format(f"{untrained:.2f}, off the axis")
    style: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "ha": side,
        "va": "center_baseline",
        "color": MUTED,
    }
    axes.text(edge, place, words, fontsize=7.5, **style)


def _bar(axes: Axes, place: int, row: pd.Series, look: Look) -> None:
    style: dict[str, Any] = {
        "edgecolor": look.colour(row["base"]),
        "facecolor": PAPER,
        "hatch": look.hatch(row["modifier"]),
    }
    axes.barh(place, row["mean"] - 1, left=1, height=0.58, linewidth=0.9, zorder=2, **style)
    if row["n"] > 1:
        axes.errorbar(row["mean"], place, xerr=error_bounds(row), color=INK, capsize=2, linewidth=0.9, zorder=3)
    end = np.nanmax([row["mean"], row["high"], 1.0])
    words = f"{ratio(row['mean'])}×"
    axes.annotate(words, (end, place), (4, 0), textcoords="offset points", va="center_baseline", fontsize=7.5)
