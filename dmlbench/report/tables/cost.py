"""What a method costs."""

import pandas as pd

from dmlbench.analysis.groups import Group
from dmlbench.analysis.order import in_order
from dmlbench.analysis.overhead import CAVEAT
from dmlbench.report.naming import plain
from dmlbench.report.tables.notes import few_seeds, other_machines
from dmlbench.report.tables.table import Entry, Table, interval_of, number


def overhead_table(group: Group, overhead: pd.DataFrame) -> Table:
    """Every modified method's step time beside its own base's, and their ratio."""
    rows = []
    mine = in_order(group.of(overhead))
    for row in mine.to_dict("records"):
        times = [number(row[name], plain) for name in ("step_ms", "step_ms_base")]
        ratio = number(row["mean"], plain, interval_of(row, plain))
        rows.append(
            (
                Entry(row["method"]),
                Entry(row["base"]),
                *times,
                ratio,
                number(row["n"], "{:.0f}".format),
                Entry(row["marks"]),
            )
        )
    return Table(
        f"overhead_{group.slug}",
        f"Training-time overhead on {group.title}",
        ("Method", "Base", "Step (ms)", "Base's step (ms)", "Ratio", "Pairs", "Marks"),
        tuple(rows),
        ("Geometric means over seeds [95% t-interval].", CAVEAT, *other_machines(mine), *few_seeds(mine)),
    )
