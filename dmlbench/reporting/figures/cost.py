"""What a method costs: step time over its base's, where a step's time goes, and what is gained for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.costs import phase_order
from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import Group, in_order, method_name, modifier_name
from dmlbench.reporting.naming import metric_name, plain, points
from dmlbench.reporting.style import (
    INK,
    LINE,
    MANY,
    MUTED,
    PAGE,
    PALETTE,
    PAPER,
    PHASES,
    RC,
    Look,
    Plot,
    by_panel,
    edges,
    error_bounds,
    limits_of,
    plotting,
    row_canvas,
    signed_ticks,
    wrapped,
    write_panel_title,
    write_title,
)

PLANE, PLANE_OF_MANY = 3.0, 2.0  # inches that a panel of gain against cost takes, and one of many


class Named(Protocol):
    """What a figure is of: a name for people, and one for files."""

    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def slug(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Setup:
    """A name for people and one for files, of what is no group of results."""

    title: str
    slug: str


@dataclass(frozen=True)
class Clock:
    """How times were taken: what figures of them say of it.

    Attributes:
        ratio: What a ratio is, with its interval.
        of: What is counted by n.
        phases: What a phase's time is.
        source: Where a step's phases come from, in a sentence's words.
    """

    ratio: str
    of: str
    phases: str
    source: str


RUNS = Clock(
    "geometric mean, 95% t-interval over seeds",
    "seeds",
    "median over epochs, mean over seeds",
    "by the phase clock of ordinary runs; “data” is the wait for the loader. Means over seeds: their sums are not the "
    "geometric means of the table",
)


def turns(processes: int) -> Clock:
    """The clock of `dmlbench overhead` with so many processes."""
    alone = "median, 95% bootstrap interval over rounds", "rounds"
    ratio, of = alone if processes == 1 else ("mean of processes' medians, 95% t-interval over processes", "processes")
    return Clock(
        ratio,
        of,
        "median over rounds",
        "measured by interleaved steps on batches that are on the device; “other” is what no phase covers",
    )


def overhead_plot(setup: Named, ratios: pd.DataFrame, look: Look, clock: Clock = RUNS) -> Plot:
    """Step time of every modified method as a ratio to its base's.

    Args:
        setup: What all methods share.
        ratios: Rows of `overhead.overhead` with at least one pair, or of `measured.measured_overhead`.
        look: Colours and hatches.
        clock: How the times were taken.
    """
    rows = in_order(ratios)
    with plotting(RC):
        figure, axes = row_canvas(list(rows["name"]), [setup.title, clock.ratio])
        for y, (_, row) in enumerate(rows.iterrows()):
            _bar(axes, y, row, look)
        axes.axvline(1, color=INK, linewidth=0.9, zorder=4)
        ends = rows[["mean", "low", "high"]].to_numpy(float)
        low, high = min(1.0, np.nanmin(ends)), max(1.02, np.nanmax(ends))
        axes.set_xlim(low - 0.03 * (high - low), high + 0.28 * (high - low))  # room for the ratio in words
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=4))
        axes.set_xlabel("step time relative to the reference")
    return Plot(
        figure,
        f"overhead_{setup.slug}",
        f"Training-step time on {setup.title} as a ratio to the reference's: {clock.ratio}; 1 is no overhead.",
        ratios[["name", "to_name", "mean", "low", "high", "n", "step_ms", "step_ms_to"]],
    )


def phases_plot(setup: Named, phases: pd.DataFrame, clock: Clock = RUNS) -> Plot:
    """Where the time of a training step goes: one stacked bar per method.

    Args:
        setup: What all methods share.
        phases: Rows of `overhead.phase_times` of this group, or of `measured.measured_phases`.
        clock: How the times were taken.
    """
    methods = in_order(phases.drop_duplicates("name"))
    names = phase_order(phases)
    table = phases.pivot_table(index="name", columns="phase", values="ms", sort=False).loc[methods["name"], names]
    with plotting(RC):
        figure, axes = row_canvas(list(table.index), [setup.title, clock.phases])
        left = np.zeros(len(table))
        for y, name in enumerate(names):
            width = table[name].fillna(0.0).to_numpy(float)
            colour = PHASES.get(name, PALETTE[y % len(PALETTE)])
            axes.barh(
                range(len(table)), width, left=left, height=0.62, zorder=2, color=colour, edgecolor=PAPER,
                linewidth=0.6, label=name,
            )  # fmt: skip
            left += width
        axes.set_xlabel("time of a training step (ms)")
        figure.legend(loc="outside lower center", ncols=4, handlelength=1, handleheight=1, columnspacing=1)
        figure.set_figheight(figure.get_figheight() + 0.16 * -(-len(names) // 4))
    return Plot(
        figure,
        f"phases_{setup.slug}",
        f"Phases of a training step on {setup.title}, {clock.source}.",
        phases[["name", "phase", "ms", "n"]],
    )


def plane_plot(group: Group, selection: str, compared: pd.DataFrame, ratios: pd.DataFrame, look: Look) -> Plot:
    """What every method gains over its reference against what it costs; up and to the left is better.

    Args:
        group: What all methods share.
        selection: How the epoch was chosen, a key of `SELECTIONS`.
        compared: Rows of `comparisons.primary` for one metric: one per method.
        ratios: Rows of `precedence.with_interleaved`; methods without a ratio are left out.
        look: Colours and markers.
    """
    metric = metric_name(str(compared["metric"].iloc[0]))
    both = in_order(compared).merge(
        ratios[["name", "mean", "low", "high", "n", "interleaved"]], on="name", suffixes=("", "_cost")
    )
    heading = [group.title, SELECTIONS[selection], "gain against cost, 95% intervals; (1, 0) is the reference"]
    lines, parts = wrapped(heading, PAGE), by_panel(both)
    costs = both.assign(mean=both["mean_cost"], low=both["low_cost"], high=both["high_cost"])
    left, right = limits_of(costs, costs["mean"], include=[1.0, *costs["mean"]])
    with plotting(RC):
        columns = 1 if len(parts) <= 2 else 2
        rows, panel = -(-len(parts) // columns), PLANE if columns == 1 else PLANE_OF_MANY
        figure = Figure(figsize=(PAGE, 0.35 + panel * rows + LINE * len(lines)))
        # One method that fell far would press together all that did not, so gains have a scale to each panel.
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        write_title(figure, lines)
        for place, (axes, (title, part)) in enumerate(zip(grid, parts.items(), strict=False)):
            _cross(axes, title, "" if place % columns else f"{metric}, difference (points)")
            axes.set_xlim(left, right + (0.3 if columns == 1 else 0.5) * (right - left))  # room for names
            axes.tick_params(labelbottom=place + columns >= len(parts))
            _points(axes, part, look, modifier_name if both["name"].nunique() > MANY else method_name)
        for axes in grid[len(parts) :]:
            axes.set_visible(False)
        figure.supxlabel("step time relative to the reference", fontsize=8, color=INK)
    scales = " The panels' vertical scales differ." if len(parts) > 1 else ""
    scales += " Step times: interleaved where they were measured so." if both["interleaved"].any() else ""
    kept = ["name", "to_name", "mean", "low", "high", "n", "mean_cost", "low_cost", "high_cost", "n_cost"]
    return Plot(
        figure,
        f"plane_{group.slug}_{selection}",
        f"Gain in {metric} over the reference against training-step time relative to the reference on {group.title}; "
        f"{SELECTIONS[selection]}. Up and to the left is better; bars: 95% intervals.{scales}",
        both[kept],
    )


def _cross(axes: Axes, title: str, label: str) -> None:
    """A panel of the plane, with the lines that meet in the reference."""
    write_panel_title(axes, title)
    axes.grid()
    axes.axhline(0, color=INK, linewidth=0.9, zorder=1)
    axes.axvline(1, color=INK, linewidth=0.9, zorder=1)
    signed_ticks(axes.yaxis)
    axes.set_ylabel(label)


def _bar(axes: Axes, y: int, row: pd.Series, look: Look) -> None:
    axes.barh(
        y, row["mean"] - 1, left=1, height=0.58, linewidth=0.9, zorder=2, edgecolor=look.colour(row),
        facecolor=PAPER, hatch=look.hatch(row),
    )  # fmt: skip
    if row["n"] > 1:
        axes.errorbar(row["mean"], y, xerr=error_bounds(row), color=INK, capsize=2, linewidth=0.9, zorder=3)
    end = np.nanmax([row["mean"], row["high"], 1.0])
    words = f"{plain(row['mean'])}×"
    axes.annotate(words, (end, y), (4, 0), textcoords="offset points", va="center_baseline", fontsize=7.5)


def _points(axes: Axes, part: pd.DataFrame, look: Look, write: Callable[..., str]) -> None:
    """Every method with its intervals and its name, which is moved to where it hides nothing."""
    low, high = (100 * end for end in limits_of(part, part["mean"], include=[0.0]))
    labels = []
    for _, row in part.iterrows():
        colour, face, marker = look.signs(row)
        gain, cost = 100 * row["mean"], row["mean_cost"]
        beyond = not low <= gain <= high
        if row["n"] > 1 and not beyond:
            axes.errorbar(cost, gain, yerr=100 * error_bounds(row), color=colour, linewidth=0.7, zorder=2)
        if row["n_cost"] > 1 and not beyond:
            ends = [[cost - row["low_cost"]], [row["high_cost"] - cost]]
            axes.errorbar(cost, gain, xerr=ends, color=colour, linewidth=0.4, alpha=0.6, zorder=2)
        place = min(max(gain, low), high)
        sign: Any = ("v" if gain < low else "^") if beyond else marker
        axes.plot(cost, place, color=colour, marker=sign, markersize=5, zorder=4, clip_on=False, **edges(colour, face))
        words = write(row, tuned=False) + (f" {points(row['mean'])}" if beyond else "")
        # In ink, for letters in a light colour of the palette cannot be read; on paper, for bars run below.
        ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.4}
        labels.append(axes.text(cost, place, words, fontsize=6, color=INK, zorder=3.5, bbox=ground))
    axes.set_ylim(low, high)
    adjust_text(labels, ax=axes, expand=(1.15, 1.35), iter_lim=120, ensure_inside_axes=True,
                arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.4})  # fmt: skip
