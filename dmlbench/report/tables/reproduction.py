"""Published figures beside ours."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from dmlbench.report.naming import metric_name, percent, points
from dmlbench.report.tables.table import Entry, Table, number

EPOCH = {"best-test": "best test", "last": "last", "validation": "validation", "unknown": "unknown"}


def reproduction_table(found: pd.DataFrame) -> Table:
    """Every published figure of a method and dataset that there are results of.

    Args:
        found: As `published.reproduction` returns it.
    """
    rows = []
    for row in found.to_dict("records"):
        theirs = number(row["published"], percent)
        if not pd.isna(row["published_std"]):
            theirs = replace(theirs, spread=f"± {percent(row['published_std'])}")
        gap = "" if pd.isna(row["difference_low"]) else _interval(row["difference_low"], row["difference_high"], points)
        ours = "" if row["n"] < 2 else _interval(row["low"], row["high"], percent)
        rows.append((
            Entry(row["method"]), Entry(row["dataset"]), Entry(metric_name(row["metric"])),
            Entry(EPOCH[row["published_selection"]]), theirs, number(row["published_seeds"], "{:.0f}".format),
            number(row["mean"], percent, ours), number(row["n"], "{:.0f}".format),
            number(row["difference"], points, gap), Entry(row["not_comparable"]), Entry(row["source"]),
        ))  # fmt: skip
    return Table(
        "reproduction",
        "Published and reproduced",
        ("Method", "Dataset", "Metric", "Epoch", "Published", "Their seeds", "Ours", "Our seeds", "Difference",
         "Not compared", "Source"),
        tuple(rows),
        (
            "In percent, differences in points. Ours at the same choice of the epoch as theirs [95% t-interval].",
            "Difference: ours minus theirs [Welch's 95% interval; of our mean alone where theirs has no spread].",
        ),
    )  # fmt: skip


def _interval(low: float, high: float, write: Callable[[float], str]) -> str:
    return f"[{write(low)}, {write(high)}]"
