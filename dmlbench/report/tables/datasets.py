"""What holds over several datasets of one protocol."""

import pandas as pd

from dmlbench.analysis.across import DATASETS_FOR_RANKS, critical_difference
from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.order import in_order
from dmlbench.report.naming import metric_name, percent, plain
from dmlbench.report.tables.comparison import EVIDENCE, evidence_entries, evidence_notes, ordered
from dmlbench.report.tables.notes import few_seeds
from dmlbench.report.tables.table import Entry, Table, number


def pooled_table(title: str, slug: str, pooled: pd.DataFrame) -> Table:
    """Comparisons pooled over datasets.

    Args:
        title: Protocol with its settings.
        slug: The same for file names.
        pooled: Rows of `comparisons.pooled` of one protocol, variant, selection and metric.
    """
    first = pooled.iloc[0]
    rows = [
        (Entry(row["method"]), Entry(row["to"]), *(number(row[name], "{:.0f}".format) for name in ("datasets", "n")),
         *evidence_entries(row), Entry(row["marks"]))
        for row in ordered(pooled)
    ]  # fmt: skip
    weight = (
        "Every dataset weighs the same; each seed's differences are averaged over the datasets first, and the interval "
        "covers the choice of the seed for these datasets, not the choice of datasets."
    )
    return Table(
        f"pooled_{slug}_{first['selection']}",
        f"Evidence in {metric_name(first['metric'])} over the datasets of {title}; {SELECTIONS[first['selection']]}",
        ("Method", "Against", "Datasets", "Seeds", *EVIDENCE, "Marks"),
        tuple(rows),
        (weight, *evidence_notes(pooled), *few_seeds(pooled)),
    )


def over_datasets_table(title: str, slug: str, means: pd.DataFrame) -> Table:
    """Interquartile mean and average rank of the methods that have every dataset.

    Args:
        title: Protocol with its settings.
        slug: The same for file names.
        means: Rows of `across.over_datasets` of one protocol, variant, selection and metric.
    """
    first = means.iloc[0]
    rows = [
        (Entry(row["method"]), number(row["datasets"], "{:.0f}".format), number(row["n"], "{:.0f}".format),
         number(row["iqm"], percent, "" if pd.isna(row["low"]) else f"[{percent(row['low'])}, {percent(row['high'])}]"),
         number(row["rank"], plain), Entry(row["marks"]))
        for row in in_order(means).to_dict("records")
    ]  # fmt: skip
    return Table(
        f"datasets_{slug}_{first['selection']}",
        f"{metric_name(first['metric'])} over the datasets of {title}; {SELECTIONS[first['selection']]}",
        ("Method", "Datasets", "Runs", "Interquartile mean", "Average rank", "Marks"),
        tuple(rows),
        (
            "Interquartile mean: mean of the middle half of all runs, in percent [95% bootstrap interval].",
            "The bootstrap is stratified by dataset; with few seeds it covers less than 95%.",
            "Average rank: 1 is best on every dataset.",
            _ranks(len(means), int(first["datasets"])),
        ),
    )


def _ranks(methods: int, datasets: int) -> str:
    if datasets < DATASETS_FOR_RANKS:
        return f"Fewer than {DATASETS_FOR_RANKS} datasets: ranks show an order, no evidence."
    return f"Two average ranks differ where they lie {critical_difference(methods, datasets):.2f} apart (Nemenyi, .05)."
