"""What a table is.

The notes below a table: what cannot be concluded, what was left out and why, and letters for marks.
"""

import itertools
import math
import string
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from dmlbench.analysis.comparisons import other_kinds, other_origins
from dmlbench.analysis.estimates import ESTIMATE
from dmlbench.analysis.groups import DEFAULT, Against, in_order
from dmlbench.analysis.statistics import FEWEST, smallest_p
from dmlbench.analysis.tuning import unequal_budgets
from dmlbench.reporting.naming import named, p_value, plain
from dmlbench.results.frames import ENSEMBLE, MEAN

# Columns of words; all others hold figures.
TEXT_COLUMNS = {
    "Method", "Base", "Against", "Marks", "Dataset", "Metric", "Epoch", "Source", "Parameter", "Part", "Value",
    "Not compared", "Published setting", "Verdict", "Varied", "Rank", "Budget", "Chosen values",
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


def interval_of(estimate: Mapping[Hashable, Any], write: Callable[[float], str], prefix: str = "") -> str:
    """`[low, high]`, of the columns with this prefix; empty where fewer than two values give no interval."""
    low, high = estimate[f"{prefix}low"], estimate[f"{prefix}high"]
    return f"[{write(low)}, {write(high)}]" if estimate["n"] > 1 else ""


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


def step_time_entry(ratios: Sequence[Mapping[Hashable, Any]]) -> Entry:
    """A method's step time over its reference's: on one dataset with its interval, on several the range of means.

    Args:
        ratios: Rows of `precedence.with_interleaved` with at least one pair.
    """
    means = [float(own["mean"]) for own in ratios]
    if not means:
        return Entry("–")
    low, high = plain(min(means)), plain(max(means))
    interval = interval_of(ratios[0], plain) if len(ratios) == 1 else ""
    return Entry(f"{low}×" if low == high else f"{low}–{high}×", interval, max(means))


def by_method(estimates: pd.DataFrame) -> Iterable[pd.DataFrame]:
    """The rows of every method, methods in their order."""
    parts = dict(iter(estimates.groupby("name", sort=False)))
    for name in in_order(estimates.drop_duplicates("name"))["name"]:
        yield parts[name]


def metrics_row(
    part: pd.DataFrame, metrics: list[str], write: Callable[[float], str], *, spread: bool = False
) -> tuple[Entry, ...]:
    """A method's name, its number of seeds, its estimate of every metric, its marks."""
    by_metric = {row["metric"]: row for row in part[["metric", *ESTIMATE]].to_dict("records")}
    name, marks, seeds = part["name"].iloc[0], str(part["marks"].iloc[0]), int(part["n"].max())
    measured = [
        estimate_entry(by_metric[name], write, seeds, spread=spread) if name in by_metric else Entry("–")
        for name in metrics
    ]
    return (Entry(name), number(seeds, "{:.0f}".format), *measured, Entry(marks))


def few_seeds(estimates: pd.DataFrame) -> list[str]:
    """A warning that names the methods with fewer than `FEWEST` seeds, if there are any."""
    counts = estimates.groupby("name", sort=False)["n"].max()
    few = [f"{method} ({n})" for method, n in counts.items() if n < FEWEST]
    return [f"Fewer than {FEWEST} seeds, so nothing can be concluded from: {', '.join(few)}."] if few else []


def few_pairs(compared: pd.DataFrame) -> list[str]:
    """A warning that names the comparisons of fewer than `FEWEST` pairs, if there are any."""
    rows = compared[compared["n"] < FEWEST].to_dict("records")
    few = [f"{row['name']} against {row['to_name']} ({row['n']})" for row in rows]
    return [f"Fewer than {FEWEST} pairs, so nothing can be concluded from: {', '.join(few)}."] if few else []


def reach(compared: pd.DataFrame) -> list[str]:
    """What the sign-flip test can reach at most with the numbers of pairs that were tested."""
    tested = sorted({int(n) for n in compared["n"] if n >= FEWEST})
    found = [f"{p_value(smallest_p(n))} with {n} pairs" for n in tested]
    if not found:
        return []
    below = [n for n in tested if smallest_p(n) >= 0.05]
    why = " Six pairs are the fewest with which it can fall below .05." if below else ""
    return [f"The smallest p that the sign-flip test can reach: {', '.join(found)}.{why}"]


def without_base(accuracy: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """A note that names the modified methods whose reference has no result with the same seed, if there are any."""
    compared = accuracy["network"].isin([MEAN, ENSEMBLE])
    modified = accuracy.loc[(accuracy["modifier"] != "") & compared, "name"].unique()
    alone = [name for name in modified if name not in set(differences["name"])]
    return (
        [f"No result of the reference with the same seed among these, so no difference for: {', '.join(alone)}."]
        if alone
        else []
    )


def other_machines(overhead: pd.DataFrame) -> list[str]:
    """A note on the pairs that ran on two machines and form no ratio, if there are any."""
    dropped = overhead[overhead["other_machine"] > 0]
    found = ", ".join(f"{row['name']} ({row['other_machine']})" for row in dropped.to_dict("records"))
    why = "the two differ in machine, load or training code, or one ran beside another run's cells"
    return [f"Pairs whose times form no ratio because {why}: {found}."] if found else []


def other_starts(values: pd.DataFrame, against: Against = DEFAULT) -> list[str]:
    """A note on the seeds at which a method and its reference form no pair; `values` as of `seed_values`."""
    found = _counted(other_origins(values, against))
    why = "the reference's run had other initial weights, other images or another kind of device"
    return [f"Seeds that form no pair, for {why}: {found}."] if found else []


def _counted(seeds: pd.DataFrame) -> str:
    """Methods with a number of seeds each, in words."""
    return ", ".join(f"{row['name']} ({row['size']})" for row in named(seeds).to_dict("records"))


def about_pairs(values: pd.DataFrame, against: Against = DEFAULT) -> list[str]:
    """Notes on what the pairs of a group are, and on what they are not; `values` as of `seed_values`."""
    return [*other_starts(values, against), *mixed_kinds(values, against), *_unequal_budgets(values)]


def mixed_kinds(values: pd.DataFrame, against: Against = DEFAULT) -> list[str]:
    """A note on the pairs whose two runs were made by processors or libraries of two kinds, if there are any."""
    found = _counted(other_kinds(values, against))
    why = "on processors of two kinds or with two releases of a library, where rounding makes a run another draw"
    return [f"Pairs with the reference whose two runs were made {why}: {found}."] if found else []


def _unequal_budgets(values: pd.DataFrame) -> list[str]:
    """A note where tuned methods of one base had other budgets than each other."""
    notes = []
    for part in unequal_budgets(values):
        had = ", ".join(f"{row['name']} {row['budget']}" for row in named(part).to_dict("records"))
        notes.append(f"Unequal budgets of tuning ({had}): that alone can put one above another.")
    return notes


def mark_signs(marks: Iterable[str]) -> dict[str, str]:
    """A letter for every mark, where a table has no room for them: `{"unpublished composition": "a"}`; z, aa, ab."""
    distinct = dict.fromkeys(mark for own in marks for mark in own.split("; ") if mark)
    return dict(zip(distinct, _letters(), strict=False))


def _letters() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def signed(marks: str, signs: dict[str, str]) -> str:
    """The letters of a row's marks: `a,b`."""
    return ",".join(signs[mark] for mark in marks.split("; ") if mark)
