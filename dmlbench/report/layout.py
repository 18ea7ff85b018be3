"""Tables as people read them: rounded, with intervals, titles that say how the epoch was chosen, and notes."""

import string
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dmlbench.analysis.groups import Group
from dmlbench.analysis.overhead import CAVEAT
from dmlbench.report.naming import in_order, metric_name, percent, points, ratio, table_metrics
from dmlbench.report.tables import SELECTIONS, UNTRAINED, other_origins

FEW = 3  # below this number of seeds no conclusion is offered


@dataclass(frozen=True)
class Entry:
    """A table's cell: its text, and an interval in smaller type."""

    text: str
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """A table for people; `slug` names its file. The first column names the row."""

    slug: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


def accuracy_table(group: Group, selection: str, accuracy: pd.DataFrame) -> Table:
    """Every method's metrics in percent, the untrained network first.

    Args:
        group: What all methods share.
        selection: A key of `SELECTIONS`.
        accuracy: Rows of `tables.accuracy`; those of other groups and selections are left out.
    """
    mine = group.of(accuracy)
    mine = mine[mine["selection"].isin([UNTRAINED, selection])]
    trained = mine[mine["selection"] == selection]
    metrics = table_metrics(trained["metric"])
    rows = [_row(part, metrics, percent) for part in _by_method(mine)]
    notes = ["In percent: mean over seeds [95% t-interval of the mean]."]
    if selection == "best_test":
        notes.append("Each metric at its own best epoch, chosen on the test classes it is then measured on.")
    return Table(
        f"accuracy_{group.slug}_{selection}",
        f"Accuracy of {group.title}; {SELECTIONS[selection]}",
        ("Method", "Seeds", *map(metric_name, metrics), "Marks"),
        tuple(rows),
        (*notes, *few_seeds(trained)),
    )


def difference_table(group: Group, selection: str, differences: pd.DataFrame, accuracy: pd.DataFrame) -> Table:
    """Every modified method's difference to its own base in percentage points, paired by seed.

    Args:
        group: What all methods share.
        selection: A key of `SELECTIONS`.
        differences: Rows of `tables.differences`; those of other groups and selections are left out.
        accuracy: Rows of `tables.accuracy`, for the methods that have no pair.
    """
    mine = group.of(differences)
    mine = mine[mine["selection"] == selection]
    metrics = table_metrics(mine["metric"])
    rows = [_row(part, metrics, points) for part in _by_method(mine)]
    return Table(
        f"difference_{group.slug}_{selection}",
        f"Difference to the method's own base on {group.title}; {SELECTIONS[selection]}",
        ("Method", "Pairs", *map(metric_name, metrics), "Marks"),
        tuple(rows),
        (
            "In percentage points: mean of the differences per seed [paired 95% t-interval].",
            "Intervals are not corrected for the number of comparisons.",
            *few_seeds(mine),
            *without_base(group.of(accuracy), mine),
        ),
    )


def overhead_table(group: Group, overhead: pd.DataFrame) -> Table:
    """Every modified method's step time beside its own base's, and their ratio."""
    rows = []
    mine = in_order(group.of(overhead))
    for row in mine.to_dict("records"):
        interval = f"[{ratio(row['low'])}, {ratio(row['high'])}]" if row["n"] > 1 else ""
        times = [Entry(ratio(row[name])) for name in ("step_ms", "step_ms_base")]
        entries = [Entry(row["method"]), Entry(row["base"]), *times, Entry(ratio(row["mean"]), interval)]
        rows.append((*entries, Entry(str(row["n"]))))
    return Table(
        f"overhead_{group.slug}",
        f"Training-time overhead on {group.title}",
        ("Method", "Base", "Step (ms)", "Base's step (ms)", "Ratio", "Pairs"),
        tuple(rows),
        ("Geometric means over seeds [95% t-interval].", CAVEAT, *other_machines(mine), *few_seeds(mine)),
    )


def few_seeds(estimates: pd.DataFrame) -> list[str]:
    """A warning that names the methods with fewer than `FEW` seeds, if there are any."""
    counts = estimates.groupby("method", sort=False)["n"].max()
    few = [f"{method} ({n})" for method, n in counts.items() if n < FEW]
    return [f"Fewer than {FEW} seeds, so nothing can be concluded from: {', '.join(few)}."] if few else []


def without_base(accuracy: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """A note that names the modified methods whose base has no result with the same seed, if there are any."""
    modified = accuracy.loc[accuracy["modifier"] != "", "method"].unique()
    alone = [method for method in modified if method not in set(differences["method"])]
    return [f"No result of the base with the same seed, so no difference for: {', '.join(alone)}."] if alone else []


def other_machines(overhead: pd.DataFrame) -> list[str]:
    """A note on the pairs that ran on two machines and form no ratio, if there are any."""
    dropped = overhead[overhead["other_machine"] > 0]
    named = [f"{row.method} ({row.other_machine})" for row in dropped.itertuples()]
    why = "the two ran on different machines or under different loads"
    return [f"Pairs left out because {why}: {', '.join(named)}."] if named else []


def other_starts(values: pd.DataFrame) -> list[str]:
    """A note on the seeds of which method and base form no pair, if there are any; `values` as of `seed_values`."""
    named = [f"{method} ({count})" for method, count in other_origins(values).items()]
    why = "the base's run had other initial weights, other images or another kind of device"
    return [f"Seeds that form no pair, for {why}: {', '.join(named)}."] if named else []


def mark_signs(marks: Iterable[str]) -> dict[str, str]:
    """A letter for every mark, where a table has no room for them: `{"unpublished composition": "a"}`."""
    distinct = dict.fromkeys(mark for own in marks for mark in own.split("; ") if mark)
    return {mark: string.ascii_lowercase[place] for place, mark in enumerate(distinct)}


def signed(marks: str, signs: dict[str, str]) -> str:
    """The letters of a row's marks: `a,b`."""
    return ",".join(signs[mark] for mark in marks.split("; ") if mark)


def _by_method(estimates: pd.DataFrame) -> Iterable[pd.DataFrame]:
    for _, method in in_order(estimates.drop_duplicates("method")).iterrows():
        yield estimates[estimates["method"] == method["method"]]


def _row(part: pd.DataFrame, metrics: list[str], write: Callable[[float], str]) -> tuple[Entry, ...]:
    by_metric = {row["metric"]: row for row in part.to_dict("records")}
    first = part.iloc[0]
    seeds = int(part["n"].max())
    measured = [estimate_entry(by_metric[name], write, seeds) if name in by_metric else Entry("–") for name in metrics]
    return (Entry(first["method"]), Entry(str(seeds)), *measured, Entry(str(first["marks"])))


def estimate_entry(estimate: Mapping[Hashable, Any], write: Callable[[float], str], seeds: int) -> Entry:
    """An estimate with its interval; `write` is `percent` or `points`.

    Where a metric was measured for fewer than the row's `seeds` (NMI is not due at every epoch), it says so.
    """
    interval = f"[{write(estimate['low'])}, {write(estimate['high'])}]" if estimate["n"] > 1 else ""
    fewer = f"n = {estimate['n']}" if estimate["n"] < seeds else ""
    return Entry(write(estimate["mean"]), " ".join(filter(None, (interval, fewer))))
