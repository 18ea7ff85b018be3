"""Query by query: what each seed wins and loses, and how far the difference depends on the test classes."""

import pandas as pd

from dmlbench.analysis.groups import Group
from dmlbench.report.naming import points
from dmlbench.report.tables.table import Entry, Table, by_method, number


def queries_table(group: Group, evidence: pd.DataFrame) -> Table:
    """A row per modified method and seed against its base.

    Args:
        group: What all methods share.
        evidence: Rows of `queries.query_evidence`; those of other groups are left out.
    """
    rows = []
    for part in by_method(group.of(evidence)):
        for row in part.sort_values("seed").to_dict("records"):
            interval = "" if pd.isna(row["low"]) else f"[{points(row['low'])}, {points(row['high'])}]"
            counts = (number(row[name], "{:,.0f}".format) for name in ("won", "lost", "both", "neither"))
            names = (Entry(row["method"]), Entry(row["base"]), number(row["seed"], "{:.0f}".format))
            rows.append((*names, number(row["difference"], points, interval), *counts))
    mine = group.of(evidence)
    classes = ", ".join(f"{count:,}" for count in sorted(set(mine["classes"])))
    return Table(
        f"queries_{group.slug}",
        f"R@1 query by query on {group.title}; last epoch",
        ("Method", "Against", "Seed", "Difference", "Won", "Lost", "Both right", "Both wrong"),
        tuple(rows),
        (
            "In percentage points, within one seed [95% percentile bootstrap over test classes, paired by query].",
            f"The interval covers the choice of the {classes} test classes, not of the seed.",
            "Won: the base misses and the method hits; lost: the other way round.",
        ),
    )
