"""The report at a glance: every modified method on every dataset, in one table per protocol."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import Group, slug, without_paths
from dmlbench.analysis.order import in_order
from dmlbench.report.naming import metric_name, plain, points
from dmlbench.report.tables.notes import reach
from dmlbench.report.tables.table import Entry, Table, interval_of, interval_with_n
from dmlbench.report.verdict import LABELS, Verdict, kind_of

SIGNS = ", ".join(f"{label[0]} {label[2:]}" for label in LABELS.values())


def summary_tables(verdicts: Mapping[Group, Sequence[Verdict]], pooled: pd.DataFrame) -> list[Table]:
    """One table per protocol with its settings: a row per modified method, a column per dataset and one for all.

    Args:
        verdicts: Those of every group.
        pooled: Rows of `comparisons.pooled` to the base.
    """
    places = dict.fromkeys((group.protocol, group.variant) for group, own in verdicts.items() if own)
    tables = []
    for protocol, variant in places:
        mine = {group: own for group, own in verdicts.items() if (group.protocol, group.variant) == (protocol, variant)}
        tables.append(_summary(protocol, variant, mine, pooled))
    return tables


def _summary(protocol: str, variant: str, verdicts: Mapping[Group, Sequence[Verdict]], pooled: pd.DataFrame) -> Table:
    by_place = {(verdict.row["method"], group.dataset): verdict for group, own in verdicts.items() for verdict in own}
    rows = pd.DataFrame([verdict.row for verdict in by_place.values()])
    datasets = [group.dataset for group in sorted(verdicts)]
    title = protocol + (f", {without_paths(variant)}" if variant else "")
    first = rows.iloc[0]
    place = {"protocol": protocol, "variant": variant, "selection": first["selection"], "metric": first["metric"]}
    for key, value in place.items():
        pooled = pooled[pooled[key] == value]
    together = {row["method"]: row for row in pooled.to_dict("records")}
    body = []
    for _, method in in_order(rows.drop_duplicates("method")).iterrows():
        own = [by_place.get((method["method"], dataset)) for dataset in datasets]
        marks = "; ".join(dict.fromkeys(found.row["marks"] for found in own if found and found.row["marks"]))
        ratios = [found.ratio for found in own if found and not math.isnan(found.ratio)]
        whole = [_pooled_entry(together.get(method["method"]))] if together else []
        pairs = max(int(found.row["n"]) for found in own if found)
        figures = [_entry(found, pairs) for found in own]
        body.append((Entry(method["method"]), *figures, *whole, _range(ratios), Entry(marks)))
    return Table(
        "_".join(["summary", *(slug(part) for part in (protocol, variant) if part)]),
        f"{metric_name(first['metric'])} against the base under {title}; {SELECTIONS[first['selection']]}",
        ("Method", *datasets, *(["Together"] if together else []), "Step time", "Marks"),
        tuple(body),
        (
            f"{SIGNS}: by the paired t-test with Holm's correction, at .05.",
            "In percentage points, paired by seed [95% t-interval]. Step time over the base's.",
            *(["n: pairs, where another dataset of the row has more."] if len(set(rows["n"])) > 1 else []),
            *(["Together: the mean over datasets, of the seeds that all of them have."] if together else []),
            *reach(rows),
        ),
    )


def _entry(verdict: Verdict | None, pairs: int) -> Entry:
    if verdict is None:
        return Entry("–")
    mean = float(verdict.row["mean"])
    return Entry(f"{verdict.sign} {points(mean)}", interval_with_n(verdict.row, points, pairs), mean, kind=verdict.kind)


def _pooled_entry(row: Mapping[Hashable, Any] | None) -> Entry:
    if row is None or not row["n"]:
        return Entry("–")
    kind = kind_of(row["n"], row["p_holm"], row["mean"])
    text = f"{LABELS[kind][0]} {points(row['mean'])}"
    return Entry(text, interval_of(row, points), row["mean"], kind=kind)


def _range(ratios: Sequence[float]) -> Entry:
    if not ratios:
        return Entry("–")
    low, high = plain(min(ratios)), plain(max(ratios))
    return Entry(f"{low}×" if low == high else f"{low}–{high}×", "", max(ratios))
