"""The trace of tuning: what the finalists scored on held-out training classes, and their values on the test classes."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmlbench.analysis.groups import Group
from dmlbench.reporting.style import (
    LINE,
    MUTED,
    PAGE,
    PAPER,
    RC,
    ROW,
    Look,
    Plot,
    edges,
    plotting,
    wrapped,
    write_title,
)

SHOWN = ["name", "study", "values", "files", "chosen", "held_out", "held_out_se", "pairs", "test", "seeds"]


def trace_plot(group: Group, finalists: pd.DataFrame, look: Look) -> Plot:
    """Held-out MAP@R of the finalists with standard errors, and against it the test MAP@R of those that were run.

    Args:
        group: What all methods share.
        finalists: Rows of `studies.read_finalists` of the group.
        look: Colours and markers.
    """
    rows = finalists.dropna(subset=["held_out"]).reset_index(drop=True)
    several = len(set(rows["study"])) > 1
    labels = rows["name"] + (" study " + rows["study"].astype(str) if several else "")
    studies = list(dict.fromkeys(labels))
    with plotting(RC):
        legend = "filled: chosen; hollow: the files' values; small: other finalists"
        lines = wrapped([group.title, f"MAP@R on held-out training classes and on test classes; {legend}"], PAGE)
        figure = Figure(figsize=(PAGE, max(2.6, 0.7 + LINE * len(lines) + ROW * len(studies))))
        write_title(figure, lines)
        left, right = figure.subplots(1, 2)
        _finalists(left, rows.assign(y=labels.map(studies.index)), look)
        left.set_yticks(range(len(studies)), studies)
        left.set_ylim(len(studies) - 0.45, -0.55)
        _test(right, rows.assign(label=labels), look)
    return Plot(
        figure,
        f"tuning_{group.slug}_trace",
        f"Tuning on {group.title}. Left: MAP@R of the finalists on held-out training classes, mean ± standard error "
        "over pairs of fold and seed; the decision is made of paired differences, whose errors are smaller. Right: "
        "against it MAP@R on the test classes, mean over seeds, of the values that were run; a line joins the files' "
        "values and the chosen ones of a study. Filled: chosen; hollow: the files' values.",
        rows[SHOWN],
    )


def _finalists(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    for _, row in rows.iterrows():
        held_out, error = 100 * row["held_out"], 100 * row["held_out_se"]
        axes.errorbar(held_out, row["y"], xerr=error, color=look.colour(row), linewidth=0.9, capsize=1.6, zorder=2)
        _mark(axes, held_out, row["y"], row, look)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("MAP@R, held-out training classes (%)")


def _test(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """A point for the files' and the chosen values of each study, where they were run on the test classes."""
    run = rows[rows["test"].notna() & (rows["files"] | rows["chosen"])]
    for _, own in run.groupby("label", sort=False):
        axes.plot(100 * own["held_out"], 100 * own["test"], color=look.colour(own.iloc[0]), linewidth=0.8, zorder=1)
        for _, row in own.iterrows():
            _mark(axes, 100 * row["held_out"], 100 * row["test"], row, look)
    if run.empty:
        axes.text(0.5, 0.5, "none was run on the test classes", transform=axes.transAxes, ha="center", color=MUTED)
    axes.grid()
    axes.set_xlabel("MAP@R, held-out training classes (%)")
    axes.set_ylabel("MAP@R, test classes (%)")


def _mark(axes: Axes, x: float, y: float, row: pd.Series, look: Look) -> None:
    colour, _, marker = look.signs(row)
    face = colour if row["chosen"] else PAPER
    size = 5.5 if row["chosen"] or row["files"] else 3
    axes.plot(x, y, color=colour, marker=marker, markersize=size, zorder=4, **edges(colour, face))
