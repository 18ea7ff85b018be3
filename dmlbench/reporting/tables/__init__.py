"""Tables as people read them: rounded, with intervals, titles that say how the epoch was chosen, and notes."""

from dmlbench.reporting.tables.accuracy import accuracy_table, reproduction_table, selection_table
from dmlbench.reporting.tables.comparison import difference_table, evidence_table, over_datasets_table, pooled_table
from dmlbench.reporting.tables.cost import overhead_table
from dmlbench.reporting.tables.table import Entry, Table

__all__ = [
    "Entry",
    "Table",
    "accuracy_table",
    "difference_table",
    "evidence_table",
    "over_datasets_table",
    "overhead_table",
    "pooled_table",
    "reproduction_table",
    "selection_table",
]
