"""Means with intervals and every seed: accuracy, differences to the base, what choosing the epoch adds, and ranks."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.comparisons import critical_difference
from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import Group, in_order
from dmlbench.analysis.statistics import SIGNIFICANT
from dmlbench.reporting.naming import metric_name
from dmlbench.reporting.style import (
    INK,
    MUTED,
    PAPER,
    RC,
    SQUASHED,
    Limits,
    Look,
    Plot,
    dot,
    limits_of,
    plotting,
    row_canvas,
    signed_ticks,
)


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
    """Mean of every method with its 95% t-interval, the best first, seeds faint, the untrained network for reference.

    Args:
        group: What all methods share.
        selection: How the epoch was chosen, a key of `SELECTIONS`.
        estimates: Rows of `estimates.accuracy` for one metric: one per method.
        values: Rows of `estimates.seed_values` for the same metric: one per method and seed.
        untrained: The metric of the untrained network, a fraction; NaN where it was not measured.
        look: Colours and markers.
        limits: Ends of the axis as fractions, the same for all selections of a group.
    """
    metric = metric_name(str(estimates["metric"].iloc[0]))
    rows = in_order(estimates).sort_values("mean", ascending=False, kind="stable")
    measured = not math.isnan(untrained)
    with plotting(RC):
        title = [group.title, SELECTIONS[selection], "mean, 95% t-interval, seeds"]
        figure, axes = row_canvas([*rows["name"], *(["untrained"] if measured else [])], title)
        _dots(axes, rows, {str(name): part["value"] for name, part in values.groupby("name")}, look, limits)
        axes.set_xlim(100 * limits[0], 100 * limits[1])
        axes.set_xlabel(f"{metric} (%)")
        if measured:
            _untrained(axes, len(rows), 100 * untrained)
    return Plot(
        figure,
        f"accuracy_{group.slug}_{selection}",
        f"{metric} on {group.title}; {SELECTIONS[selection]}. Large marks: means with 95% t-intervals over seeds; "
        "small ticks: seeds; grey: the untrained network.",
        values[["name", "seed", "value"]],
    )


def difference_plot(
    group: Group,
    selection: str,
    compared: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    look: Look,
    limits: Limits,
) -> Plot:
    """Difference of every method to its reference, paired by seed, around a zero line.

    Args:
        group: What all methods share.
        selection: How the epoch was chosen, a key of `SELECTIONS`.
        compared: Rows of `comparisons.primary` for one metric: one per method.
        pairs: Rows of `comparisons.primary` of the seed pairs for the same metric: one per method and seed.
        look: Colours and markers.
        limits: Ends of the axis as fractions, the same for all selections of a group.
    """
    metric, rows = metric_name(str(compared["metric"].iloc[0])), in_order(compared)
    seeds = {str(name): part["value"] - part["value_to"] for name, part in pairs.groupby("name")}
    labels = [method + star(verdict) for method, verdict in zip(rows["name"], rows["verdict"], strict=True)]
    with plotting(RC):
        title = [
            group.title,
            SELECTIONS[selection],
            "mean paired difference, 95% t-interval (thin: simultaneous), seeds",
        ]
        figure, axes = row_canvas(labels, title)
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        for position, row in enumerate(rows.to_dict("records")):
            if not limits[0] <= row["mean"] <= limits[1]:
                continue
            axes.plot(
                [100 * row["all_low"], 100 * row["all_high"]], [position - 0.08] * 2, color=look.colour(row),
                linewidth=0.5, zorder=2,
            )  # fmt: skip
        _dots(axes, rows, seeds, look, limits)
        axes.set_xlim(100 * limits[0], 100 * limits[1])
        signed_ticks(axes.xaxis)
        axes.set_xlabel(f"{metric}, difference to {_other(rows)} (points)")
    starred = " *: better or worse." if any(label.endswith("*") for label in labels) else ""
    return Plot(
        figure,
        f"difference_{group.slug}_{selection}",
        f"Difference in {metric} to {_other(rows)} on {group.title}; {SELECTIONS[selection]}. Large marks: mean paired "
        f"differences with 95% t-intervals, thin lines: simultaneous intervals, cut at the axis; small ticks: "
        f"seeds.{starred}",
        pairs[["name", "to_name", "seed", "value", "value_to"]],
    )


def star(verdict: str) -> str:
    """A star for `better` and `worse`."""
    return "*" if verdict in ("better", "worse") else ""


def _other(rows: pd.DataFrame) -> str:
    """What the rows are compared with, in words."""
    others = set(rows["to_name"])
    return others.pop() if len(others) == 1 else "base" if (rows["modifier"] != "").all() else "reference"


def optimism_plot(group: Group, optimism: pd.DataFrame, values: pd.DataFrame, look: Look) -> Plot:
    """What choosing the epoch on the test classes adds to every method's figure.

    Args:
        group: What all methods share.
        optimism: Rows of `estimates.optimism` for one metric: one per method.
        values: Rows of `estimates.seed_values` for the same metric, of the last and the best test epoch.
        look: Colours and markers.
    """
    metric, rows = metric_name(str(optimism["metric"].iloc[0])), in_order(optimism)
    table = values.pivot_table(index=["name", "seed"], columns="selection", values="value")
    added = (table["best_test"] - table["last"]).dropna()
    with plotting(RC):
        figure, axes = row_canvas(
            list(rows["name"]),
            [group.title, "gained by choosing the epoch on the test classes", "mean, 95% bootstrap interval, seeds"],
        )
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        _dots(axes, rows, {str(name): part for name, part in added.groupby("name")}, look)
        signed_ticks(axes.xaxis)
        axes.set_xlabel(f"{metric}, best test epoch\n− last (points)")
    return Plot(
        figure,
        f"optimism_{group.slug}",
        f"How much of {metric} on {group.title} comes from choosing the epoch on the test classes: best test epoch "
        "minus last. Large marks: means over seeds with 95% bootstrap intervals; small ticks: seeds.",
        added.rename("best_test_minus_last").reset_index(),
    )


def _dots(
    axes: Axes, rows: pd.DataFrame, seeds: dict[str, pd.Series], look: Look, limits: Limits | None = None
) -> None:
    _ticks(axes, [seeds[method] for method in rows["name"]], [look.colour(row) for row in rows.to_dict("records")])
    for position, (_, row) in enumerate(rows.iterrows()):
        dot(axes, row, position - 0.08, look.signs(row), limits)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=4))


def _ticks(axes: Axes, seeds: Sequence[pd.Series], colours: Sequence[str]) -> None:
    """Seeds as faint ticks below their mean, which stay apart where dots would hide one another; one call for all."""
    counts = [len(own) for own in seeds]
    values = 100 * np.concatenate([own.to_numpy(float) for own in seeds])
    positions, own = np.repeat(np.arange(len(seeds)) + 0.24, counts), np.repeat(colours, counts)
    axes.scatter(values, positions, marker="|", s=14, c=own, linewidths=0.7, alpha=0.7, zorder=2)


def _untrained(axes: Axes, position: int, untrained: float) -> None:
    """A row and a line for the untrained network; only its number where it lies off the axis.

    An axis that reaches far down to an untrained network would squash the differences between methods.
    """
    low, high = axes.get_xlim()
    if max(high, untrained) - min(low, untrained) <= SQUASHED * (high - low):
        room = 0.03 * (high - low)
        axes.set_xlim(min(low, untrained - room), max(high, untrained + room))
        axes.axvline(untrained, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
        axes.plot(untrained, position, "|", color=MUTED, markersize=7, zorder=3)
        return
    edge, side, sign = (0.0, "left", "◂ {}") if untrained < low else (1.0, "right", "{} ▸")
    words = sign.format(f"{untrained:.2f}, off the axis")
    where = axes.get_yaxis_transform()
    axes.text(edge, position, words, fontsize=7.5, transform=where, ha=side, va="center_baseline", color=MUTED)


def forest_plot(title: str, slug: str, compared: pd.DataFrame, pooled: pd.DataFrame, look: Look) -> Plot:
    """Difference of every method to its reference: a row per dataset, and a diamond for all of them.

    Args:
        title: Protocol with its settings.
        slug: The same for file names.
        compared: Rows of `comparisons.primary` of one protocol, variant, selection and metric.
        pooled: Rows of `comparisons.primary` of the pooled comparisons, of the same.
        look: Colours and markers.
    """
    selection, metric = str(compared["selection"].iloc[0]), metric_name(str(compared["metric"].iloc[0]))
    together = pooled.assign(dataset=pooled["datasets"].astype(str) + " datasets", pooled=True)
    rows = pd.concat([compared.assign(pooled=False), together], ignore_index=True)
    rows = pd.concat([rows[rows["name"] == name] for name in in_order(pooled)["name"]], ignore_index=True)
    lines: list[tuple[str, pd.Series | None]] = []
    for method, own in rows.groupby("name", sort=False):
        lines.append((str(method), None))
        lines += [(row["dataset"] + star(row["verdict"]), row) for _, row in own.iterrows()]
    limits = limits_of(rows, rows["mean"], include=[0.0])
    with plotting(RC):
        heading = [title, SELECTIONS[selection], f"mean paired difference to {_other(rows)}, 95% t-interval"]
        figure, axes = row_canvas([label for label, _ in lines], heading)
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        for position, (label, row) in enumerate(zip(axes.get_yticklabels(), (row for _, row in lines), strict=True)):
            if row is None:
                label.set_fontweight("bold")
                continue
            signs = (INK, INK, "D") if row["pooled"] else look.signs(row)
            dot(axes, row, position, signs, limits)
        axes.set_xlim(100 * limits[0], 100 * limits[1])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=4))
        signed_ticks(axes.xaxis)
        axes.set_xlabel(f"{metric}, difference to {_other(rows)} (points)")
    return Plot(
        figure,
        f"forest_{slug}_{selection}",
        f"Difference in {metric} to {_other(rows)} over the datasets of {title}; {SELECTIONS[selection]}. "
        "The last row of a method: its datasets together, each with the same weight. Bars: 95% t-intervals over seeds. "
        "*: better or worse.",
        rows[["name", "to_name", "dataset", "mean", "low", "high", "n", "p_t", "p_bh", "p_sign_flip", "verdict"]],
    )


def ranks_plot(title: str, slug: str, means: pd.DataFrame, look: Look) -> Plot:
    """Critical-difference diagram: average ranks, with a bar over methods that do not differ (Demsar 2006).

    Args:
        title: Protocol with its settings.
        slug: The same for file names.
        means: Rows of `across.over_datasets` of one protocol, variant, selection and metric.
        look: Colours.
    """
    rows = means.sort_values(["rank", "name"], kind="stable")
    ranks, count = rows["rank"].to_numpy(float), int(rows["datasets"].iloc[0])
    selection, metric = str(rows["selection"].iloc[0]), metric_name(str(rows["metric"].iloc[0]))
    distance = critical_difference(len(rows), count)
    # Where Friedman's test is not significant, no two ranks are compared.
    alike = rows["friedman_p"].iloc[0] >= SIGNIFICANT
    cliques = [(float(ranks[0]), float(ranks[-1]))] if alike else _cliques(ranks, distance)
    with plotting(RC):
        heading = [
            title,
            SELECTIONS[selection],
            f"average rank over {count} datasets; bars join what does not differ",
        ]
        figure, axes = row_canvas(list(rows["name"]), heading)
        figure.set_figheight(figure.get_figheight() + 0.1 * len(cliques))
        axes.set_ylim(len(rows) - 0.45, -0.7 - 0.45 * len(cliques))
        for position, (rank, row) in enumerate(zip(ranks, rows.to_dict("records"), strict=True)):
            axes.plot(rank, position, "o", color=look.colour(row), markersize=5, markeredgecolor=PAPER)
            axes.annotate(
                f"{rank:.2f}", (rank, position), (5, 0), textcoords="offset points", va="center_baseline", fontsize=7
            )
        for level, (low, high) in enumerate(cliques):
            axes.plot([low - 0.03, high + 0.03], [-0.7 - 0.45 * level] * 2, color=INK, linewidth=2.4)
        axes.set_xlim(0.8, len(rows) + 0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("average rank (1 is best)")
    return Plot(
        figure,
        f"ranks_{slug}_{selection}",
        f"Average ranks in {metric} over {count} datasets of {title}; {SELECTIONS[selection]}. A thick bar joins "
        f"methods whose ranks lie less than the critical difference of {distance:.2f} apart (Nemenyi's test at .05).",
        rows[["name", "rank", "iqm", "datasets", "n"]],
    )


def _cliques(ranks: np.ndarray, distance: float) -> list[tuple[float, float]]:
    """Ends of the largest runs of sorted ranks whose span stays below the critical difference."""
    found: list[tuple[float, float]] = []
    for low in ranks:
        high = ranks[(ranks >= low) & (ranks < low + distance)].max()
        if high > low and not (found and high <= found[-1][1]):
            found.append((float(low), float(high)))
    return found
