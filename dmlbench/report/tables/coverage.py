"""How much of the matrix is there."""

import numpy as np
import pandas as pd

from dmlbench.analysis.groups import GROUP, groups
from dmlbench.analysis.order import in_order
from dmlbench.report.tables.table import Entry, Table


def coverage_table(arranged: pd.DataFrame, unfinished: pd.DataFrame) -> Table:
    """Seeds that are done, failed and not finished, of every method on every dataset.

    Args:
        arranged: Results after `groups.arrange`.
        unfinished: As `sources.unfinished` returns it.
    """
    columns = [*GROUP, "method", "base", "modifier", "seed", "status"]
    ended = arranged[[*columns, "folder"]].drop_duplicates("folder")[columns]
    there = set(ended[ended["status"] == "done"][[*GROUP, "method", "seed"]].itertuples(index=False, name=None))
    cells = pd.concat([ended, unfinished.assign(status="unfinished")[columns]], ignore_index=True)
    # A seed that another spec has finished since is not missing.
    place = cells[[*GROUP, "method", "seed"]].itertuples(index=False, name=None)
    open_ = np.array([key not in there for key in place], dtype=bool)
    cells = cells[(cells["status"] == "done") | open_]
    places = groups(cells)
    rows = [
        (Entry(method["method"]), *(_coverage_entry(place.of(cells[cells["method"] == method["method"]])) for place in places))
        for _, method in in_order(cells.drop_duplicates("method")).iterrows()
    ]
    names = tuple(place.title for place in places)
    note = "Seeds that are done, of all that were planned; f: failed."
    return Table("coverage", "The matrix", ("Method", *names), tuple(rows), (note,))


def is_uneven(coverage: Table) -> bool:
    """Whether some method lacks seeds or a dataset that others have."""
    return len({entry.text for row in coverage.rows for entry in row[1:]}) > 1


def _coverage_entry(cells: pd.DataFrame) -> Entry:
    if cells.empty:
        return Entry("–")
    done, failed = ((cells["status"] == state).sum() for state in ("done", "failed"))
    words = str(done) if done == len(cells) else f"{done}/{len(cells)}"
    return Entry(words + (f" ({failed} f)" if failed else ""), "", float(done))
