"""Tuned values beside those of the methods' files."""

import pandas as pd

from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import Group
from dmlbench.report.naming import metric_name, percent, points
from dmlbench.report.tables.table import Entry, Table, interval_of, number


def tuning_table(group: Group, found: pd.DataFrame) -> Table:
    """What tuning changed on one dataset.

    Args:
        group: Protocol and dataset.
        found: Rows of `tuning.tuned_beside_files` of the group, one selection and one metric.
    """
    first = found.iloc[0]
    rows = [
        (Entry(row["method"]), Entry(row["trials"]), Entry(row["margin"]), number(row["n"], "{:.0f}".format),
         number(row["files"], percent), number(row["tuned"], percent),
         number(row["mean"], points, interval_of(row, points)), Entry(row["marks"]))
        for row in found.to_dict("records")
    ]  # fmt: skip
    metric = metric_name(first["metric"])
    return Table(
        f"tuning_{group.slug}_{first['selection']}",
        f"Tuned values beside the files' on {group.title}; {SELECTIONS[first['selection']]}",
        ("Method", "Trials", "Won by", "Seeds", f"{metric}, files' values", f"{metric}, tuned", "Difference", "Marks"),
        tuple(rows),
        (
            "In percent; difference, in points: tuned minus files' values, by seed [95% t-interval]; not tested.",
            "Trials on held-out training classes, the first with the files' values; the best counts. 8 x 3: 3 seeds.",
            "Won by: held-out R@1 of the best trial minus that of the next. The test classes chose nothing.",
            "All trials share one split of the training classes: another split or seed may choose other values.",
        ),
    )
