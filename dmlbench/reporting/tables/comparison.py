"""Differences seed by seed, and what they say.

The report in short: one sentence per modified method and dataset, from the numbers alone.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dmlbench.analysis.comparisons import OTHER, SIGNIFICANT, star
from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import Group, in_order, modifier_rank
from dmlbench.analysis.statistics import EXACT, FEWEST
from dmlbench.reporting.naming import metric_name, p_value, plain, points, table_metrics
from dmlbench.reporting.tables.table import (
    Entry,
    Table,
    by_method,
    estimate_entry,
    few_pairs,
    few_seeds,
    metrics_row,
    number,
    reach,
    without_base,
)

EVIDENCE = ("Difference", "p", "p, sign-flip", "Effect size", "P(better)")
HOW_TO_READ = (
    "Effect size: mean over standard deviation of the paired differences, with Hedges' correction. P(better): the "
    "chance that a run of the method beats a run of the other, without pairing (probability of improvement)."
)


def difference_table(group: Group, selection: str, differences: pd.DataFrame, accuracy: pd.DataFrame) -> Table:
    """Every modified method's difference to its own base in percentage points, paired by seed.

    Args:
        group: What all methods share.
        selection: A key of `SELECTIONS`.
        differences: Rows of `comparisons.to_base`; those of other groups and selections are left out.
        accuracy: Rows of `estimates.accuracy`, for the methods that have no pair.
    """
    mine = group.of(differences)
    mine = mine[mine["selection"] == selection]
    metrics = table_metrics(mine["metric"])
    return Table(
        f"difference_{group.slug}_{selection}",
        f"Difference to the method's own base on {group.title}; {SELECTIONS[selection]}",
        ("Method", "Pairs", *map(metric_name, metrics), "Marks"),
        tuple(metrics_row(part, metrics, points) for part in by_method(mine)),
        (
            "In percentage points: mean of the differences per seed [paired 95% t-interval].",
            "Intervals are not corrected for the number of comparisons.",
            *few_seeds(mine),
            *without_base(group.of(accuracy), mine),
        ),
    )


def evidence_table(group: Group, selection: str, metric: str, compared: pd.DataFrame) -> Table:
    """One metric: every method against its base and against the other modifiers of that base, with its tests.

    Args:
        group: What all methods share.
        selection: A key of `SELECTIONS`.
        metric: The metric that the verdict is given by.
        compared: Rows of `comparisons.comparisons`; others of the group are left out.
    """
    mine = group.of(compared)
    mine = mine[(mine["selection"] == selection) & (mine["metric"] == metric)]
    return Table(
        f"evidence_{group.slug}_{selection}",
        f"Evidence in {metric_name(metric)} on {group.title}; {SELECTIONS[selection]}",
        ("Method", "Against", "Pairs", *EVIDENCE, "Marks"),
        tuple(
            (Entry(row["name"]), Entry(row["to_name"]), number(row["n"], "{:.0f}".format), *evidence_entries(row),
             Entry(row["marks"]))
            for row in ordered(mine)
        ),
        (*evidence_notes(mine), *few_pairs(mine)),
    )  # fmt: skip


def evidence_entries(row: Mapping[Hashable, Any]) -> tuple[Entry, ...]:
    """The columns `EVIDENCE` of a comparison."""
    difference = estimate_entry(row, points, row["n"])
    return (
        Entry(difference.text + star(row["p_holm"]), difference.interval, difference.value),
        number(row["p_holm"], p_value),
        number(row["p_sign_flip"], p_value),
        number(row["effect_size"], plain),
        number(row["probability_of_improvement"], plain),
    )


def evidence_notes(compared: pd.DataFrame) -> list[str]:
    """How to read the columns `EVIDENCE`."""
    family = int(compared["family"].max()) if len(compared) else 0
    among = f"the {family} comparisons of this table" if family > 1 else "one comparison, which leaves it as it is"
    if family != len(compared):
        among = f"the {family} of the {len(compared)} comparisons that have {FEWEST} pairs or more"
    corrected = f"p: paired t-test, corrected by Holm's method for {among}; *: below .05. "
    exact = "exact" if compared["n"].max() <= EXACT else f"exact up to {EXACT} pairs, else drawn"
    return [
        "In percentage points: mean of the differences per seed [paired 95% t-interval, not corrected].",
        corrected + f"p, sign-flip: {exact}, two-sided, not corrected." if family else "Too few pairs for any test.",
        *reach(compared),
        HOW_TO_READ,
    ]


def ordered(compared: pd.DataFrame) -> Iterator[Mapping[Hashable, Any]]:
    """Comparisons in the order of their methods, each against its base first."""
    for _, first in in_order(compared.drop_duplicates("name")).iterrows():
        own = compared[compared["name"] == first["name"]].to_dict("records")
        yield from sorted(own, key=lambda row: modifier_rank(*(row[key] for key in OTHER[1:])))


LABELS = {"higher": "▲ higher", "lower": "▼ lower", "open": "○ not told apart", "few": "? too few seeds"}


@dataclass(frozen=True)
class Verdict:
    """What the evidence says of one method; `kind` is a key of `LABELS`.

    `row` is the comparison with its base, `ratio` the step time over the base's, NaN where it was not measured.
    """

    kind: str
    sentence: str
    row: Mapping[Hashable, Any]
    ratio: float

    @property
    def label(self) -> str:
        """The kind in a word or two."""
        return LABELS[self.kind]

    @property
    def sign(self) -> str:
        """The kind in one character."""
        return LABELS[self.kind][0]


def verdicts(group: Group, compared: pd.DataFrame, overhead: pd.DataFrame) -> list[Verdict]:
    """One verdict per modified method of a group.

    Args:
        group: What all methods share.
        compared: Rows of `comparisons.to_base` of one selection and metric.
        overhead: Rows of `overhead.overhead`.
    """
    costs = {row["name"]: row for row in group.of(overhead).to_dict("records")}
    return [_verdict(row, costs.get(row["name"])) for row in ordered(group.of(compared))]


def kind_of(n: int, p_holm: float, mean: float) -> str:
    """`few` below the fewest seeds that can be tested, else by the corrected p-value and the sign."""
    if n < FEWEST:
        return "few"
    if p_holm < SIGNIFICANT:
        return "higher" if mean > 0 else "lower"
    return "open"


def _verdict(row: Mapping[Hashable, Any], cost: Mapping[Hashable, Any] | None) -> Verdict:
    kind = kind_of(row["n"], row["p_holm"], row["mean"])
    pairs = f"{row['n']} {'pair' if row['n'] == 1 else 'pairs'}"
    interval = f" [{points(row['low'])}, {points(row['high'])}]" if row["n"] > 1 else ""
    difference = f"{points(row['mean'])} points {metric_name(row['metric'])}{interval}"
    said = [f"{row['name']} against {row['to_name']}: {difference}"]
    least = " (the smallest it can reach)" if row["p_sign_flip"] <= row["p_smallest"] else ""
    tests = f"p {p_value(row['p_holm'])}, sign-flip {p_value(row['p_sign_flip'])}{least}"
    said.append(f"{pairs}, nothing can be concluded" if kind == "few" else f"{pairs}, {tests}")
    ratio = float(cost["mean"]) if cost and cost["n"] else float("nan")
    return Verdict(kind, f"{'; '.join([*said, *_price(cost)])}.{_marks(row['marks'])}", row, ratio)


def _price(cost: Mapping[Hashable, Any] | None) -> list[str]:
    if cost is None or not cost["n"]:
        return []
    interval = f" [{plain(cost['low'])}, {plain(cost['high'])}]" if cost["n"] > 1 else ""
    return [f"training step {plain(cost['mean'])}×{interval}"]


def _marks(marks: str) -> str:
    return f" {marks.capitalize()}." if marks else ""
