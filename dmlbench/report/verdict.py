"""The report in short: one sentence per modified method and dataset, from the numbers alone."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dmlbench.analysis.comparisons import SIGNIFICANT
from dmlbench.analysis.groups import Group
from dmlbench.analysis.statistics import FEWEST
from dmlbench.report.naming import metric_name, p_value, plain, points
from dmlbench.report.tables.comparison import ordered

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
    costs = {row["method"]: row for row in group.of(overhead).to_dict("records")}
    return [_verdict(row, costs.get(row["method"])) for row in ordered(group.of(compared))]


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
    said = [f"{row['method']} against {row['to']}: {points(row['mean'])} points {metric_name(row['metric'])}{interval}"]
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
