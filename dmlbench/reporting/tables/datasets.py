"""What holds over several datasets of one protocol."""

from collections.abc import Collection

import pandas as pd

from dmlbench.analysis.across import DATASETS_FOR_RANKS, critical_difference
from dmlbench.analysis.comparisons import SIGNIFICANT
from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import in_order
from dmlbench.analysis.statistics import FEWEST
from dmlbench.reporting.naming import metric_name, p_value, percent, plain
from dmlbench.reporting.tables.comparison import EVIDENCE, evidence_entries, evidence_notes, ordered
from dmlbench.reporting.tables.table import Entry, Table, few_pairs, number


def pooled_table(title: str, slug: str, pooled: pd.DataFrame) -> Table:
    """Comparisons pooled over datasets.

    Args:
        title: Protocol with its settings.
        slug: The same for file names.
        pooled: Rows of `comparisons.pooled` of one protocol, variant, selection and metric.
    """
    first = pooled.iloc[0]
    rows = [
        (Entry(row["name"]), Entry(row["to_name"]), *(number(row[name], "{:.0f}".format) for name in ("datasets", "n")),
         *evidence_entries(row), Entry(row["marks"]))
        for row in ordered(pooled)
    ]  # fmt: skip
    weight = (
        "Every dataset weighs the same; each seed's differences are averaged over the datasets first, so only seeds "
        "that all of them have count. The interval covers the choice of the seed for these datasets, not the choice of "
        "datasets."
    )
    return Table(
        f"pooled_{slug}_{first['selection']}",
        f"Evidence in {metric_name(first['metric'])} over the datasets of {title}; {SELECTIONS[first['selection']]}",
        ("Method", "Against", "Datasets", "Seeds", *EVIDENCE, "Marks"),
        tuple(rows),
        (weight, *evidence_notes(pooled), *few_pairs(pooled)),
    )


def over_datasets_table(title: str, slug: str, means: pd.DataFrame, methods: Collection[str]) -> Table:
    """Interquartile mean and average rank of the methods that share datasets.

    Args:
        title: Protocol with its settings.
        slug: The same for file names.
        means: Rows of `across.over_datasets` of one protocol, variant, selection and metric.
        methods: All that have results under this protocol.
    """
    first = means.iloc[0]
    rows = [
        (Entry(row["name"]), number(row["n"], "{:.0f}".format),
         number(row["iqm"], percent, "" if pd.isna(row["low"]) else f"[{percent(row['low'])}, {percent(row['high'])}]"),
         number(row["rank"], plain), Entry(row["marks"]))
        for row in in_order(means).to_dict("records")
    ]  # fmt: skip
    absent = [method for method in methods if method not in set(means["name"])]
    return Table(
        f"datasets_{slug}_{first['selection']}",
        f"{metric_name(first['metric'])} over the datasets of {title}; {SELECTIONS[first['selection']]}",
        ("Method", "Runs", "Interquartile mean", "Average rank", "Marks"),
        tuple(rows),
        (
            f"Over {first['over']}: the seeds that all these methods have.",
            *(
                [f"Left out, for want of one of these datasets or of {FEWEST} seeds: {', '.join(absent)}."]
                if absent
                else []
            ),
            "Interquartile mean: mean of the middle half of all runs, in percent [95% bootstrap interval].",
            "The bootstrap is stratified by dataset; with few seeds it covers less than 95%.",
            "Average rank: 1 is best on every dataset.",
            _ranks(len(means), first),
        ),
    )


def can_rank(means: pd.DataFrame) -> bool:
    """Whether there are datasets and seeds enough for ranks to be evidence."""
    return bool(means["datasets"].iloc[0] >= DATASETS_FOR_RANKS and means["seeds"].iloc[0] >= FEWEST)


def _ranks(methods: int, first: pd.Series) -> str:
    if first["seeds"] < FEWEST:
        return f"Fewer than {FEWEST} seeds of a dataset, so nothing can be concluded."
    if first["datasets"] < DATASETS_FOR_RANKS:
        return f"Fewer than {DATASETS_FOR_RANKS} datasets: ranks show an order, no evidence."
    distance = critical_difference(methods, int(first["datasets"]))
    apart = f"average ranks differ where they lie {distance:.2f} apart (Nemenyi, .05)."
    if pd.isna(first["friedman_p"]):
        return f"Two {apart}"
    p = p_value(first["friedman_p"])
    if first["friedman_p"] >= SIGNIFICANT:
        return f"Friedman's test (p {p}) does not tell any of them apart."
    return f"Friedman's test tells some apart (p {p}): {apart}"
