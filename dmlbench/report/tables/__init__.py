"""Tables as people read them: rounded, with intervals, titles that say how the epoch was chosen, and notes."""

from dmlbench.report.tables.accuracy import accuracy_table, reproduction_table, selection_table
from dmlbench.report.tables.comparison import difference_table, evidence_table
from dmlbench.report.tables.cost import overhead_table
from dmlbench.report.tables.datasets import over_datasets_table, pooled_table
from dmlbench.report.tables.table import Entry, Table

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
