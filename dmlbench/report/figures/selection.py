"""The choices of the epoch side by side."""

from typing import Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlbench.analysis.estimates import SELECTIONS, selections_of
from dmlbench.analysis.groups import Group
from dmlbench.analysis.order import in_order
from dmlbench.plotting import plotting
from dmlbench.report.canvas import Plot, row_canvas
from dmlbench.report.naming import metric_name, percent
from dmlbench.report.style import MUTED, PAPER, RC, Look

MARKS = {"last": "|", "validation": "D", "best_test": "o"}
WORDS = {"last": "last", "validation": "validation", "best_test": "best test (as published)"}


def selection_plot(group: Group, accuracy: pd.DataFrame, look: Look) -> Plot:
    """Every method's mean under each choice of the epoch, joined by a line: its length is the choice alone.

    Args:
        group: What all methods share.
        accuracy: Rows of `estimates.accuracy` for one metric, without the untrained network.
        look: Colours.
    """
    metric, rows = metric_name(str(accuracy["metric"].iloc[0])), in_order(accuracy.drop_duplicates("method"))
    chosen = selections_of(accuracy)
    said = []
    with plotting(RC):
        figure, axes = row_canvas(list(rows["method"]), [group.title, "mean over seeds by how the epoch was chosen"])
        for place, (_, method) in enumerate(rows.iterrows()):
            colour = look.colour(method["base"])
            means = accuracy[accuracy["method"] == method["method"]].set_index("selection")["mean"]
            axes.plot(100 * means, [place] * len(means), color=colour, linewidth=1, zorder=2)
            for name, mean in means.items():
                style: dict[str, Any] = {
                    "markersize": 8 if name == "last" else 4.5,
                    "markeredgecolor": colour,
                    "zorder": 3,
                }
                fill: dict[str, Any] = {"markerfacecolor": PAPER if name == "validation" else colour}
                axes.plot(100 * mean, place, MARKS[str(name)], **style, **fill)
            words = (f"{percent(means[name])}% ({WORDS[name]})" for name in chosen if name in means)
            said.append(f"{method['method']} {', '.join(words)}")
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
        f"{metric} on {group.title} by how the epoch was chosen: {'; '.join(said)}.",
        accuracy[["method", "selection", "mean", "low", "high", "n"]],
    )
