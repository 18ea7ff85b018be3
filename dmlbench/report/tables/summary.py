"""The report at a glance: every modified method on every dataset, in one table per protocol."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import Group, slug, without_paths
from dmlbench.analysis.order import in_order
from dmlbench.report.naming import metric_name, plain, points
from dmlbench.report.tables.notes import reach
from dmlbench.report.tables.table import Entry, Table, interval_of
from dmlbench.report.verdict import LABELS, Verdict

SIGNS = ", ".join(f"{label[0]} {label[2:]}" for label in LABELS.values())


def summary_tables(verdicts: Mapping[Group, Sequence[Verdict]]) -> list[Table]:
    """One table per protocol with its settings: a row per modified method, a column per dataset.

    Args:
        verdicts: Those of every group.
    """
    places = dict.fromkeys((group.protocol, group.variant) for group, own in verdicts.items() if own)
    return [
        _summary(
            *place, {group: given for group, given in verdicts.items() if (group.protocol, group.variant) == place}
        )
        for place in places
    ]


def _summary(protocol: str, variant: str, verdicts: Mapping[Group, Sequence[Verdict]]) -> Table:
    by_place = {(verdict.row["method"], group.dataset): verdict for group, own in verdicts.items() for verdict in own}
    rows = pd.DataFrame([verdict.row for verdict in by_place.values()])
    datasets = [group.dataset for group in sorted(verdicts)]
    title = protocol + (f", {without_paths(variant)}" if variant else "")
    first = rows.iloc[0]
    body = []
    for _, method in in_order(rows.drop_duplicates("method")).iterrows():
        own = [by_place.get((method["method"], dataset)) for dataset in datasets]
        marks = "; ".join(dict.fromkeys(found.row["marks"] for found in own if found and found.row["marks"]))
        ratios = [found.ratio for found in own if found and not math.isnan(found.ratio)]
        body.append((Entry(method["method"]), *map(_entry, own), _range(ratios), Entry(marks)))
    return Table(
        "_".join(["summary", *(slug(part) for part in (protocol, variant) if part)]),
        f"{metric_name(first['metric'])} against the base under {title}; {SELECTIONS[first['selection']]}",
        ("Method", *datasets, "Step time", "Marks"),
        tuple(body),
        (
            f"{SIGNS}: by the paired t-test with Holm's correction, at .05.",
            "In percentage points, paired by seed [95% t-interval]. Step time over the base's.",
            *reach(rows),
        ),
    )


def _entry(verdict: Verdict | None) -> Entry:
    if verdict is None:
        return Entry("–")
    mean = float(verdict.row["mean"])
    return Entry(f"{verdict.sign} {points(mean)}", interval_of(verdict.row, points), mean, kind=verdict.kind)


def _range(ratios: Sequence[float]) -> Entry:
    if not ratios:
        return Entry("–")
    low, high = plain(min(ratios)), plain(max(ratios))
    return Entry(f"{low}×" if low == high else f"{low}–{high}×", "", max(ratios))
