"""The paired difference by epoch: when a modifier's gain comes, and whether it lasts."""

from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dmlbench.analysis.groups import METHOD, Group, base_name, in_order, modifier_name
from dmlbench.analysis.statistics import t_interval
from dmlbench.reporting.figures.curves import panels_of_curves
from dmlbench.reporting.naming import metric_name
from dmlbench.reporting.style import (
    INK,
    MUTED,
    PAGE,
    RC,
    Look,
    Plot,
    legend_columns,
    legend_rows,
    limits_of,
    plotting,
    signed_ticks,
    write_panel_title,
)

FILES, TUNED = "-", (0, (3.2, 1.6))  # lines of the files' and of tuned values


def gain_curve_plot(group: Group, pairs: pd.DataFrame, look: Look, metric: str) -> Plot:
    """Mean difference to the reference by epoch with its 95% t-interval over seeds: a panel per modifier.

    Args:
        group: What all methods share.
        pairs: One row per method, seed and epoch: `METHOD`, name, `value` and `value_to`, fractions.
        look: Colours of bases.
        metric: What the values are of.
    """
    means = _means(pairs)
    panels = {str(name): own for name, own in means.groupby("panel", sort=False)}
    low, high = limits_of(means[means["epoch"] > 0], means["mean"], include=[0.0])
    with plotting(RC):
        heading = f"{metric_name(metric)} by epoch, mean paired difference to the reference"
        figure, grid = panels_of_curves(len(panels), 3, [group.title, heading])
        for axes, (name, own) in zip(grid, panels.items(), strict=True):
            axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
            write_panel_title(axes, f"+{name}" if name else "no modifier")
            for _, curve in own.groupby("name", sort=False):
                _curve(axes, curve, look)
            axes.set_ylim(100 * low, 100 * high)
            signed_ticks(axes.yaxis)
        figure.supylabel("difference (points)", fontsize=8, color=INK)
        handles = _handles(means, look)
        width = min(PAGE, figure.get_figwidth())
        figure.set_figheight(figure.get_figheight() + 0.16 * legend_rows(handles, width))
        figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(handles, width))
    return Plot(
        figure,
        f"gain_curves_{group.slug}",
        f"Difference in {metric_name(metric)} to the reference by epoch on {group.title}. Paired by seed: means with "
        "95% t-intervals as bands. Colour: base; dashed: tuned values. A line that leaves its panel fell further.",
        means[["name", "epoch", "mean", "low", "high", "n", "std"]],
    )


def _means(pairs: pd.DataFrame) -> pd.DataFrame:
    first = in_order(pairs.drop_duplicates("name")).set_index("name")
    differences = pairs.assign(value=pairs["value"] - pairs["value_to"])
    found = differences.groupby(["name", "epoch"], sort=False)["value"]
    rows = [{"name": name, "epoch": epoch} | asdict(t_interval(values)) for (name, epoch), values in found]
    means = pd.DataFrame(rows).join(first[METHOD], on="name")
    place = {name: number for number, name in enumerate(first.index)}
    means["panel"] = [modifier_name(row, tuned=False) for row in means.to_dict("records")]
    return means.sort_values(["name", "epoch"], key=lambda own: own.map(place) if own.name == "name" else own)


def _curve(axes: Axes, curve: pd.DataFrame, look: Look) -> None:
    row = curve.iloc[0]
    colour, line = look.colour(row), TUNED if row["tuned"] else FILES
    epochs = curve["epoch"].to_numpy(float)
    axes.plot(epochs, 100 * curve["mean"], color=colour, linestyle=line, linewidth=1.2, zorder=3)
    low, high = (100 * curve[column].to_numpy(float) for column in ("low", "high"))
    if not np.isnan(low).all():
        axes.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0, zorder=2)


def _handles(means: pd.DataFrame, look: Look) -> list[Line2D]:
    firsts = in_order(means.drop_duplicates(["base", "base_settings"])).to_dict("records")
    colours = {base_name(row, tuned=False): look.colour(row) for row in firsts}
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    return handles + ([Line2D([], [], color=MUTED, linestyle=TUNED, label="tuned")] if means["tuned"].any() else [])
