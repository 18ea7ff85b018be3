"""Over several datasets: differences to the base as a forest, and average ranks with their critical difference."""

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.across import critical_difference
from dmlbench.analysis.comparisons import SIGNIFICANT, star
from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import in_order
from dmlbench.reporting.canvas import Plot, dot, row_canvas, signed_ticks, spoken
from dmlbench.reporting.naming import metric_name, plain, points
from dmlbench.reporting.style import INK, PAPER, RC, Look, plotting


def forest_plot(title: str, slug: str, compared: pd.DataFrame, pooled: pd.DataFrame, look: Look) -> Plot:
    """Difference of every modified method to its base: a row per dataset, and a diamond for all of them.

    Args:
        title: Protocol with its settings.
        slug: The same for file names.
        compared: Rows of `comparisons.to_base` of one protocol, variant, selection and metric.
        pooled: Rows of `comparisons.pooled` to the base, of the same.
        look: Colours and markers.
    """
    selection, metric = str(compared["selection"].iloc[0]), metric_name(str(compared["metric"].iloc[0]))
    together = pooled.assign(dataset=pooled["datasets"].astype(str) + " datasets", pooled=True)
    rows = pd.concat([compared.assign(pooled=False), together], ignore_index=True)
    rows = pd.concat([rows[rows["name"] == name] for name in in_order(pooled)["name"]], ignore_index=True)
    lines: list[tuple[str, pd.Series | None]] = []
    for method, own in rows.groupby("name", sort=False):
        lines.append((str(method), None))
        lines += [(row["dataset"] + star(row["p_holm"]), row) for _, row in own.iterrows()]
    with plotting(RC):
        heading = [title, SELECTIONS[selection], "mean paired difference to base, 95% t-interval"]
        figure, axes = row_canvas([label for label, _ in lines], heading)
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        for position, (label, row) in enumerate(zip(axes.get_yticklabels(), (row for _, row in lines), strict=True)):
            if row is None:
                label.set_fontweight("bold")
                continue
            signs = (INK, INK, "D") if row["pooled"] else look.signs(row)
            dot(axes, row, position, signs)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=4))
        signed_ticks(axes.xaxis)
        axes.set_xlabel(f"{metric}, difference to base (points)")
    said = spoken(rows.assign(name=rows["name"] + " on " + rows["dataset"]), points, " points")
    return Plot(
        figure,
        f"forest_{slug}_{selection}",
        f"Difference in {metric} to the method's own base over the datasets of {title}; {SELECTIONS[selection]}. "
        "The last row of a method: its datasets together, each with the same weight. Bars: 95% t-intervals over seeds. "
        "*: corrected p below .05.",
        f"Difference in {metric} to the base, {SELECTIONS[selection]}: {said}.",
        rows[["name", "to_name", "dataset", "mean", "low", "high", "n", "p_t", "p_holm", "p_sign_flip"]],
    )


def ranks_plot(title: str, slug: str, means: pd.DataFrame, look: Look) -> Plot:
    """Critical-difference diagram: average ranks, with a bar over methods that cannot be told apart (Demsar 2006).

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
            f"average rank over {count} datasets; bars join what is not told apart",
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
    said = "; ".join(f"{name} {plain(rank)}" for name, rank in zip(rows["name"], ranks, strict=True))
    return Plot(
        figure,
        f"ranks_{slug}_{selection}",
        f"Average ranks in {metric} over {count} datasets of {title}; {SELECTIONS[selection]}. A thick bar joins "
        f"methods whose ranks lie less than the critical difference of {distance:.2f} apart (Nemenyi's test at .05).",
        f"Average ranks in {metric} over {count} datasets: {said}. Critical difference {distance:.2f}.",
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
