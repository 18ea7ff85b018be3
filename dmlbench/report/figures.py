"""The figures of a report, one per protocol and dataset: dots with intervals, bars, and learning curves."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.groups import Group
from dmlbench.analysis.statistics import t_interval
from dmlbench.report.naming import MINUS, MODIFIERS, in_order, metric_name, percent, points, rank, ratio
from dmlbench.report.style import COLUMN, GRID, INK, MUTED, PAGE, PAPER, RC, Look
from dmlbench.report.tables import SELECTIONS

ROW = 0.24  # inches a method takes in dot plots and bar charts


@dataclass(frozen=True)
class Plot:
    """A figure with its file name, its caption, and its content in words for those who cannot see it."""

    figure: Figure
    slug: str
    caption: str
    alt: str


def accuracy_plot(
    group: Group,
    selection: str,
    estimates: pd.DataFrame,
    values: pd.DataFrame,
    untrained: float,
    look: Look,
    limits: tuple[float, float],
) -> Plot:
    """Mean of every method with its 95% t-interval, seeds faint, the untrained network as a line.

    Args:
        group: What all methods share.
        selection: How the epoch was chosen, a key of `SELECTIONS`.
        estimates: Rows of `tables.accuracy` for one metric: one per method.
        values: Rows of `tables.seed_values` for the same metric: one per method and seed.
        untrained: The metric of the untrained network, a fraction; NaN draws no line.
        look: Colours and markers.
        limits: Ends of the axis as fractions, the same for all selections of a group.
    """
    metric = metric_name(str(estimates["metric"].iloc[0]))
    rows = in_order(estimates)
    with rc_context(RC):
        figure, axes = _canvas(len(rows), f"{group.title}\nepoch: {SELECTIONS[selection]}")
        _dots(axes, rows, {name: part["value"] for name, part in values.groupby("method")}, look)
        axes.set_xlim(100 * limits[0], 100 * limits[1])
        _untrained_line(axes, 100 * untrained)
        axes.set_xlabel(f"{metric} (%), mean and 95% t-interval over seeds")
    spoken = "; ".join(_spoken(row, percent, "%") for _, row in rows.iterrows())
    reference = "" if np.isnan(untrained) else f" The untrained network has {percent(untrained)}%."
    return Plot(
        figure,
        f"accuracy_{group.slug}_{selection}",
        f"{metric} on {group.title}; epoch: {SELECTIONS[selection]}. Points: means with 95% t-intervals over seeds; "
        "small dots: seeds; grey line: the untrained network.",
        f"{metric} of each method on {group.title}, {SELECTIONS[selection]}: {spoken}.{reference}",
    )


def difference_plot(
    group: Group, selection: str, estimates: pd.DataFrame, pairs: pd.DataFrame, look: Look, limits: tuple[float, float]
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
    metric = metric_name(str(estimates["metric"].iloc[0]))
    rows = in_order(estimates)
    seeds = {name: part["value"] - part["value_base"] for name, part in pairs.groupby("method")}
    with rc_context(RC):
        figure, axes = _canvas(len(rows), f"{group.title}\nepoch: {SELECTIONS[selection]}")
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        _dots(axes, rows, seeds, look)
        axes.set_xlim(100 * limits[0], 100 * limits[1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", MINUS) if value else "0")
        axes.set_xlabel(f"{metric} minus its base's, paired by seed (points)")
    spoken = "; ".join(_spoken(row, points, " points") for _, row in rows.iterrows())
    return Plot(
        figure,
        f"difference_{group.slug}_{selection}",
        f"Difference in {metric} to the method's own base on {group.title}; epoch: {SELECTIONS[selection]}. Points: mean "
        "paired differences with 95% t-intervals; small dots: seeds.",
        f"Difference in {metric} to the base on {group.title}, {SELECTIONS[selection]}: {spoken}.",
    )


def overhead_plot(group: Group, ratios: pd.DataFrame, look: Look) -> Plot:
    """Step time of every modified method as a ratio to its base's, from rows of `overhead.overhead`."""
    rows = in_order(ratios.dropna(subset=["mean"]))
    with rc_context(RC):
        figure, axes = _canvas(len(rows), group.title)
        for place, (_, row) in enumerate(rows.iterrows()):
            colour = look.colour(row["base"])
            style = {"edgecolor": colour, "facecolor": PAPER, "hatch": look.hatch(row["modifier"]), "linewidth": 0.9}
            axes.barh(place, row["mean"] - 1, left=1, height=0.58, zorder=2, **style)
            reach = np.nanmax([row["mean"], row["high"], 1.0])
            if row["n"] > 1:
                axes.errorbar(row["mean"], place, xerr=_bounds(row), color=INK, capsize=2, linewidth=0.9, zorder=3)
            label = f"{ratio(row['mean'])}×"
            axes.annotate(label, (reach, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
        axes.axvline(1, color=INK, linewidth=0.9, zorder=4)
        axes.margins(x=0.16)
        axes.set_xlabel("training-step time, ratio to the base (1 = no overhead)")
    spoken = "; ".join(_spoken(row, ratio, " times its base's step time") for _, row in rows.iterrows())
    return Plot(
        figure,
        f"overhead_{group.slug}",
        f"Training-step time on {group.title} as a ratio to the method's own base: geometric means over seeds with 95% "
        "t-intervals.",
        f"Training-step time relative to the base on {group.title}: {spoken}.",
    )


def curve_plot(group: Group, history: pd.DataFrame, look: Look, metric: str = "recall_at_1") -> Plot:
    """A test metric by epoch, from the untrained network at epoch 0: mean and 95% t-interval, one panel per base.

    Args:
        group: What all methods share.
        history: Rows of `load_history` after `groups.arrange`, finished cells of this group alone.
        look: Colours and line styles.
        metric: A metric of `history` without its `test/`.
    """
    measured = history.dropna(subset=[f"test/{metric}"])
    methods = in_order(measured.drop_duplicates("method"))
    bases = list(dict.fromkeys(methods["base"]))
    modifiers = sorted(set(methods["modifier"]), key=lambda name: rank(name, MODIFIERS))
    columns = min(3, len(bases))
    lines = -(-len(bases) // columns)
    with rc_context(RC):
        figure = Figure(figsize=(COLUMN if columns == 1 else PAGE, 0.75 + 1.9 * lines))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        _title(figure, f"{group.title}\n{metric_name(metric)} on the test classes by epoch; epoch 0 is the untrained network")
        for place, axes in enumerate(grid.flat):
            axes.set_visible(place < len(bases))
        for axes, base in zip(grid.flat, bases, strict=False):
            _curves(axes, measured[measured["base"] == base], metric, look)
            axes.set_title(base, loc="left", color=INK, fontweight="bold")
        _finish_grid(figure, grid, len(bases), metric)
        handles = [_handle(modifier, look) for modifier in modifiers]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), handlelength=2.8)
    return Plot(
        figure,
        f"curves_{group.slug}",
        f"{metric_name(metric)} on the test classes of {group.title} by epoch, epoch 0 untrained: means over seeds with "
        "95% t-intervals as bands.",
        f"Learning curves of {metric_name(metric)} on {group.title} for {', '.join(methods['method'])}.",
    )


def limits_of(estimates: pd.DataFrame, seeds: pd.Series, *, include: Sequence[float] = ()) -> tuple[float, float]:
    """Ends of an axis that shows every seed and every interval, with a margin of 6%."""
    bounds = [estimates[column].to_numpy(float) for column in ("mean", "low", "high")]
    numbers = np.concatenate([*bounds, seeds.to_numpy(float), np.asarray(include, float)])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    margin = 0.06 * (high - low) or 0.005
    return low - margin, high + margin


def _canvas(rows: int, title: str) -> tuple[Figure, Axes]:
    lines = _wrapped(title)
    figure = Figure(figsize=(COLUMN, 0.62 + 0.14 * len(lines) + ROW * max(rows, 2)))
    axes = figure.subplots()
    _title(figure, title)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(rows - 0.4, -0.6)
    return figure, axes


def _dots(axes: Axes, rows: pd.DataFrame, seeds: dict[str, pd.Series], look: Look) -> None:
    for place, (_, row) in enumerate(rows.iterrows()):
        colour = look.colour(row["base"])
        own = 100 * seeds[row["method"]].to_numpy(float)
        axes.plot(own, np.full(len(own), place + 0.2), ".", color=colour, alpha=0.45, markersize=4, markeredgewidth=0, zorder=2)
        style = {"marker": look.marker(row["modifier"]), "color": colour, "markersize": 5, "markeredgecolor": PAPER}
        bounds = 100 * _bounds(row) if row["n"] > 1 else None
        height = place - 0.08
        axes.errorbar(100 * row["mean"], height, xerr=bounds, capsize=2.2, linewidth=1.2, markeredgewidth=0.6, zorder=3, **style)
    axes.set_yticks(range(len(rows)), rows["method"])
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _bounds(row: pd.Series) -> np.ndarray:
    return np.array([[row["mean"] - row["low"]], [row["high"] - row["mean"]]], dtype=float)


def _untrained_line(axes: Axes, untrained: float) -> None:
    """A line where it lies on the axis; where it would squash everything else, a note at the edge."""
    low, high = axes.get_xlim()
    if low <= untrained <= high:
        axes.axvline(untrained, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)


def _curves(axes: Axes, history: pd.DataFrame, metric: str, look: Look) -> None:
    for _, method in in_order(history.drop_duplicates("method")).iterrows():
        own = history[history["method"] == method["method"]]
        by_epoch = {epoch: t_interval(part) for epoch, part in own.groupby("epoch")[f"test/{metric}"]}
        epochs = list(by_epoch)
        mean, low, high = (
            [100 * getattr(estimate, bound) for estimate in by_epoch.values()] for bound in ("mean", "low", "high")
        )
        colour = look.colour(method["base"])
        axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(epochs, mean, color=colour, linestyle=look.line(method["modifier"]))


def _finish_grid(figure: Figure, grid: np.ndarray, used: int, metric: str) -> None:
    columns = grid.shape[1]
    for place, axes in enumerate(grid.flat):
        axes.grid(axis="both", color=GRID)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(labelbottom=place + columns >= used)
        if place + columns >= used:
            axes.set_xlabel("epoch")
        if place % columns == 0:
            axes.set_ylabel(f"{metric_name(metric)} (%)")


def _handle(modifier: str, look: Look) -> Line2D:
    return Line2D([], [], color=MUTED, linestyle=look.line(modifier), label=f"+{modifier}" if modifier else "base alone")


def _spoken(row: pd.Series, write: object, unit: str) -> str:
    assert callable(write)
    interval = f" (95% interval {write(row['low'])} to {write(row['high'])}, {row['n']} seeds)" if row["n"] > 1 else " (one seed)"
    return f"{row['method']} {write(row['mean'])}{unit}{interval}"


def _title(figure: Figure, text: str) -> None:
    figure.suptitle("\n".join(_wrapped(text)), x=0.01, ha="left", fontsize=7.5, color=MUTED)


def _wrapped(text: str) -> list[str]:
    return [line for part in text.split("\n") for line in textwrap.wrap(part, 58)]
