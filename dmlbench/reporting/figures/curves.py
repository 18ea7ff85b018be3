"""Learning curves: one panel per base loss, one file per protocol and dataset.

The choices of the epoch side by side.
"""

from dataclasses import asdict

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.estimates import SELECTIONS, selections_of
from dmlbench.analysis.groups import BASE, Group, in_order, modifier_name
from dmlbench.analysis.statistics import t_interval
from dmlbench.reporting.naming import metric_name
from dmlbench.reporting.style import (
    COLUMN,
    INK,
    MUTED,
    PAGE,
    PAPER,
    RC,
    SQUASHED,
    Limits,
    Look,
    Plot,
    cut_limits,
    limits_of,
    modifier_handles,
    plotting,
    row_canvas,
    wrapped,
    write_panel_title,
    write_title,
)


def curve_plot(group: Group, history: pd.DataFrame, look: Look, metric: str = "recall_at_1") -> Plot:
    """A test metric by epoch, from the untrained network at epoch 0: mean and 95% t-interval over seeds.

    Args:
        group: What all methods share.
        history: Rows of `load_history`, named: finished cells of this group, epochs with the metric.
        look: Colours and line styles.
        metric: A metric of `history` without its `test/`.
    """
    methods = in_order(history.drop_duplicates("name"))
    bases = list(dict.fromkeys(methods["base_name"]))
    name, means = metric_name(metric), _means(history, f"test/{metric}")
    with plotting(RC):
        heading = f"{name} on the test classes by epoch; epoch 0: untrained"
        figure, panels = panels_of_curves(len(bases), _most_columns(methods), [group.title, heading])
        for axes, base in zip(panels, bases, strict=True):
            for _, method in methods[methods["base_name"] == base].iterrows():
                own = means[means["name"] == method["name"]]
                _curve(axes, own, look.colour(method), look.line(method))
            write_panel_title(axes, base)
        beyond = _cut(panels, bases, methods, means, look)
        figure.supylabel(f"{name} (%)", fontsize=8, color=INK)
        _legend(figure, methods, look)
    return Plot(
        figure,
        f"curves_{group.slug}",
        f"{name} on the test classes of {group.title} by epoch, epoch 0 untrained: means over seeds, with 95% "
        f"t-intervals as bands; of several networks their mean, also of the untrained ones.{beyond}",
        means,
    )


def _cut(panels: list[Axes], bases: list[str], methods: pd.DataFrame, means: pd.DataFrame, look: Look) -> str:
    """End the axis where means that are far out would squash the rest, and write where lines end that leave it.

    Returns:
        What the caption says of it.
    """
    limits = _limits(means)
    if limits is None:
        return ""
    last = means.sort_values("epoch", kind="stable").drop_duplicates("name", keep="last").set_index("name")["mean"]
    for axes, base in zip(panels, bases, strict=True):
        axes.set_ylim(100 * limits[0], 100 * limits[1])
        heights = {True: 0.04, False: 0.96}
        for _, method in methods[methods["base_name"] == base].iterrows():
            end = float(last[method["name"]])
            if not limits[0] <= end <= limits[1]:
                low = end < limits[0]
                which = f"+{name}" if (name := modifier_name(method, tuned=False)) else "base"
                words = f"{which} {100 * end:.1f} {'▾' if low else '▴'}"
                axes.text(1, heights[low], words, transform=axes.transAxes, ha="right", va="center_baseline",
                          fontsize=6.5, color=look.colour(method))  # fmt: skip
                heights[low] += 0.09 if low else -0.09
    untrained = means.loc[means["epoch"] == 0, "mean"]
    beyond = (untrained < limits[0]).any()
    left_out = [f"the untrained network at epoch 0, {100 * untrained.mean():.1f}%"] if beyond else []
    left_out += ["lines that end at an arrow's number"] if any(axes.texts for axes in panels) else []
    out = means[(means["epoch"] > 0) & ~means["mean"].between(*limits)]
    passing = [name for name in dict.fromkeys(out["name"]) if limits[0] <= float(last[name]) <= limits[1]]
    left_out += [f"some epochs of {', '.join(passing)}"] if passing else []
    return f" The axis leaves out what is far from the rest: {'; '.join(left_out)}."


def _limits(means: pd.DataFrame) -> Limits | None:
    """Ends of an axis that leaves out lines that are far from the rest, or the untrained network; None for neither."""
    trained = means[means["epoch"] > 0]
    if trained.empty:
        return None
    if cut := cut_limits(trained, trained["mean"]):
        return cut
    low, high = limits_of(trained, trained["mean"])
    untrained = means.loc[means["epoch"] == 0, "mean"]
    ends = min(low, untrained.min()), max(high, untrained.max())
    return (low, high) if ends[1] - ends[0] > SQUASHED * (high - low) else None


def _means(history: pd.DataFrame, column: str) -> pd.DataFrame:
    rows = [
        {"name": method, "epoch": epoch} | asdict(t_interval(values))
        for (method, epoch), values in history.groupby(["name", "epoch"], sort=False)[column]
    ]
    return pd.DataFrame(rows)


def _most_columns(methods: pd.DataFrame) -> int:
    """Two where each base is there with its files' values and with tuned ones, else three."""
    bases = set(methods[BASE].itertuples(index=False, name=None))
    return 2 if bases == {(base, settings, not tuned) for base, settings, tuned in bases} else 3


def panels_of_curves(count: int, most: int, title: list[str]) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels over epochs, at most `most` side by side, and a title in the given lines."""
    columns = min(most, count)
    rows = -(-count // columns)
    width = COLUMN if columns == 1 else PAGE
    lines = wrapped(title, width)
    figure = Figure(figsize=(width, 0.75 + 0.14 * len(lines) + 1.9 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    write_title(figure, lines)
    for position, axes in enumerate(grid):
        axes.set_visible(position < count)
        axes.grid()
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if position + columns >= count:  # the lowest of its column, also above an empty cell of the last row
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("epoch")
    return figure, list(grid[:count])


def _curve(axes: Axes, means: pd.DataFrame, colour: str, line: object) -> None:
    mean, low, high = (100 * means[bound].to_numpy(float) for bound in ("mean", "low", "high"))
    axes.fill_between(means["epoch"], low, high, color=colour, alpha=0.14, linewidth=0)
    axes.plot(means["epoch"], mean, color=colour, linestyle=line, linewidth=1.1)


def _legend(figure: Figure, methods: pd.DataFrame, look: Look) -> None:
    handles = modifier_handles(methods, look)
    columns = min(4 if len(figure.axes) > 1 else 2, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.8)


MARKS = {"last": "|", "validation": "D", "best_test": "o"}
WORDS = {"last": "last", "validation": "validation", "best_test": "best test (as published)"}


def selection_plot(group: Group, accuracy: pd.DataFrame, look: Look) -> Plot:
    """Every method's mean under each choice of the epoch, joined by a line: its length is the choice alone.

    Args:
        group: What all methods share.
        accuracy: Rows of `estimates.accuracy` for one metric, without the untrained network.
        look: Colours.
    """
    metric, rows = metric_name(str(accuracy["metric"].iloc[0])), in_order(accuracy.drop_duplicates("name"))
    chosen = selections_of(accuracy)
    with plotting(RC):
        figure, axes = row_canvas(list(rows["name"]), [group.title, "mean over seeds by how the epoch was chosen"])
        for position, (_, method) in enumerate(rows.iterrows()):
            colour = look.colour(method)
            means = accuracy[accuracy["name"] == method["name"]].set_index("selection")["mean"]
            axes.plot(100 * means, [position] * len(means), color=colour, linewidth=1, zorder=2)
            for name, mean in means.items():
                face, size = PAPER if name == "validation" else colour, 8 if name == "last" else 4.5
                axes.plot(
                    100 * mean, position, MARKS[str(name)], markersize=size, markeredgecolor=colour,
                    markerfacecolor=face, zorder=3,
                )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=4))
        axes.set_xlabel(f"{metric} (%)")
        handles = [
            Line2D([], [], linestyle="", marker=MARKS[name], color=MUTED, markersize=5, label=WORDS[name],
                   markerfacecolor=PAPER if name == "validation" else MUTED)
            for name in chosen
        ]  # fmt: skip
        figure.set_figheight(figure.get_figheight() + 0.22)
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1, handletextpad=0)
    return Plot(
        figure,
        f"selection_{group.slug}",
        f"{metric} on {group.title} by how the epoch was chosen, means over seeds: "
        + "; ".join(SELECTIONS[name] for name in chosen)
        + ". Compare methods within one choice only.",
        accuracy[["name", "selection", "mean", "low", "high", "n"]],
    )
