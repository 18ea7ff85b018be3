"""Learning curves: one panel per base loss, one file per protocol and dataset."""

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.groups import Group
from dmlbench.analysis.statistics import t_interval
from dmlbench.report.canvas import Plot, wrapped, write_title
from dmlbench.report.naming import MODIFIERS, in_order, metric_name, rank
from dmlbench.report.style import COLUMN, INK, MUTED, PAGE, RC, Look


def curve_plot(group: Group, history: pd.DataFrame, look: Look, metric: str = "recall_at_1") -> Plot:
    """A test metric by epoch, from the untrained network at epoch 0: mean and 95% t-interval over seeds.

    Args:
        group: What all methods share.
        history: Rows of `load_history` after `groups.arrange`: finished cells of this group, epochs with the metric.
        look: Colours and line styles.
        metric: A metric of `history` without its `test/`.
    """
    methods = in_order(history.drop_duplicates("method"))
    bases = list(dict.fromkeys(methods["base"]))
    name = metric_name(metric)
    with rc_context(RC):
        figure, panels = _panels(len(bases), [group.title, f"{name} on the test classes by epoch; epoch 0: untrained"])
        for axes, base in zip(panels, bases, strict=True):
            for _, method in methods[methods["base"] == base].iterrows():
                own = history[history["method"] == method["method"]]
                _curve(axes, own.groupby("epoch")[f"test/{metric}"], look.colour(base), look.line(method["modifier"]))
            axes.set_title(base, loc="left", color=INK, fontweight="bold")
        figure.supylabel(f"{name} (%)", fontsize=8, color=INK)
        _legend(figure, methods, look)
    return Plot(
        figure,
        f"curves_{group.slug}",
        f"{name} on the test classes of {group.title} by epoch, epoch 0 untrained: means over seeds, with 95% "
        "t-intervals as bands.",
        f"Learning curves of {name} on {group.title} for {', '.join(methods['method'])}.",
    )


def _panels(count: int, title: list[str]) -> tuple[Figure, list[Axes]]:
    columns = min(3, count)
    rows = -(-count // columns)
    width = COLUMN if columns == 1 else PAGE
    lines = wrapped(title, width)
    figure = Figure(figsize=(width, 0.75 + 0.14 * len(lines) + 1.9 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    write_title(figure, lines)
    for place, axes in enumerate(grid):
        axes.set_visible(place < count)
        axes.grid()
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if place + columns >= count:  # the lowest of its column, also above an empty place of the last row
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("epoch")
    return figure, list(grid[:count])


def _curve(axes: Axes, by_epoch: "pd.api.typing.SeriesGroupBy", colour: str, line: object) -> None:
    estimates = [t_interval(values) for _, values in by_epoch]
    epochs = [epoch for epoch, _ in by_epoch]
    mean, low, high = (100 * np.array([getattr(e, bound) for e in estimates]) for bound in ("mean", "low", "high"))
    axes.fill_between(epochs, low, high, color=colour, alpha=0.14, linewidth=0)
    axes.plot(epochs, mean, color=colour, linestyle=line, linewidth=1.1)


def _legend(figure: Figure, methods: pd.DataFrame, look: Look) -> None:
    modifiers = sorted(set(methods["modifier"]), key=lambda name: rank(name, MODIFIERS))
    handles = [
        Line2D([], [], color=MUTED, linestyle=look.line(name), label=f"+{name}" if name else "base alone")
        for name in modifiers
    ]
    columns = min(4 if len(figure.axes) > 1 else 2, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.8)
