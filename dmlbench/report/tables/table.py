"""What a table is."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from dmlbench.analysis.order import in_order

# Columns of words; all others hold figures.
TEXT_COLUMNS = {
    "Method", "Base", "Against", "Marks", "Dataset", "Metric", "Epoch", "Source", "Parameter", "Part", "Value",
    "Not compared", "Published setting",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A table's cell: its text, an interval in smaller type, the value it is sorted by, `± standard deviation`.

    `kind` is that of a verdict, which gives the cell its colour.
    """

    text: str
    interval: str = ""
    value: float | None = None
    spread: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table for people; `slug` names its file. The first column names the row, a column `Marks` qualifies it."""

    slug: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


def number(value: float, write: Callable[[float], str], interval: str = "") -> Entry:
    """An entry of one number; a dash where there is none."""
    return Entry(write(value), interval, None if math.isnan(value) else value)


def interval_of(estimate: Mapping[Hashable, Any], write: Callable[[float], str]) -> str:
    """`[low, high]`; empty where fewer than two values give no interval."""
    return f"[{write(estimate['low'])}, {write(estimate['high'])}]" if estimate["n"] > 1 else ""


def interval_with_n(estimate: Mapping[Hashable, Any], write: Callable[[float], str], seeds: int) -> str:
    """The interval, and the number of seeds behind it where it is not that of the row: `[61.20, 63.40] n = 5`."""
    other = f"n = {estimate['n']}" if estimate["n"] != seeds else ""
    return " ".join(filter(None, (interval_of(estimate, write), other)))


def estimate_entry(
    estimate: Mapping[Hashable, Any], write: Callable[[float], str], seeds: int, *, spread: bool = False
) -> Entry:
    """An estimate with its interval; `write` is `percent` or `points`.

    Where a metric was measured for fewer than the row's `seeds`, or fewer of them form pairs, it says so. With `spread`
    the standard deviation follows the mean.
    """
    entry = number(estimate["mean"], write, interval_with_n(estimate, write, seeds))
    if not spread or estimate["n"] < 2:
        return entry
    return replace(entry, spread=f"± {write(estimate['std'])}")


def by_method(estimates: pd.DataFrame) -> Iterable[pd.DataFrame]:
    """The rows of every method, methods in their order."""
    for _, method in in_order(estimates.drop_duplicates("method")).iterrows():
        yield estimates[estimates["method"] == method["method"]]


def metrics_row(
    part: pd.DataFrame, metrics: list[str], write: Callable[[float], str], *, spread: bool = False
) -> tuple[Entry, ...]:
    """A method's name, its number of seeds, its estimate of every metric, its marks."""
    by_metric = {row["metric"]: row for row in part.to_dict("records")}
    first, seeds = part.iloc[0], int(part["n"].max())
    measured = [
        estimate_entry(by_metric[name], write, seeds, spread=spread) if name in by_metric else Entry("–")
        for name in metrics
    ]
    return (Entry(first["method"]), number(seeds, "{:.0f}".format), *measured, Entry(str(first["marks"])))
