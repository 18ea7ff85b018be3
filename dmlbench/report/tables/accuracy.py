"""Accuracy of every method, and the three choices of the epoch side by side."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pandas as pd

from dmlbench.analysis.estimates import SELECTIONS, UNTRAINED, selections_of
from dmlbench.analysis.groups import Group
from dmlbench.report.naming import metric_name, percent, points, table_metrics
from dmlbench.report.tables.notes import few_seeds
from dmlbench.report.tables.table import Entry, Table, by_method, estimate_entry, metrics_row, number

SHORT = {"last": "Last epoch", "validation": "Validation", "best_test": "Best test epoch"}


def accuracy_table(group: Group, selection: str, accuracy: pd.DataFrame) -> Table:
    """Every method's metrics in percent, the untrained network first.

    Args:
        group: What all methods share.
        selection: A key of `SELECTIONS`.
        accuracy: Rows of `estimates.accuracy`; those of other groups and selections are left out.
    """
    mine = group.of(accuracy)
    mine = mine[mine["selection"].isin([UNTRAINED, selection])]
    trained = mine[mine["selection"] == selection]
    metrics = table_metrics(trained["metric"])
    notes = ["In percent: mean ± standard deviation over seeds [95% t-interval of the mean]."]
    if selection == "best_test":
        notes.append("Each metric at its own best epoch, chosen on the test classes it is then measured on.")
    return Table(
        f"accuracy_{group.slug}_{selection}",
        f"Accuracy of {group.title}; {SELECTIONS[selection]}",
        ("Method", "Seeds", *map(metric_name, metrics), "Marks"),
        tuple(metrics_row(part, metrics, percent, spread=True) for part in by_method(mine)),
        (*notes, *few_seeds(trained)),
    )


def selection_table(
    group: Group, metric: str, accuracy: pd.DataFrame, differences: pd.DataFrame, optimism: pd.DataFrame
) -> Table:
    """One metric under every choice of the epoch, the gain over the base under each, and what the choice adds.

    Args:
        group: What all methods share.
        metric: The metric to show.
        accuracy: Rows of `estimates.accuracy`.
        differences: Rows of `comparisons.to_base`.
        optimism: Rows of `estimates.optimism`.
    """
    means, gains, added = (
        mine[mine["metric"] == metric] for mine in (group.of(frame) for frame in (accuracy, differences, optimism))
    )
    chosen, trained = selections_of(means), means[means["selection"] != UNTRAINED]
    found, gained = _by_choice(trained), _by_choice(gains)
    rows = []
    for part in by_method(trained):
        method, marks = part["method"].iloc[0], Entry(part["marks"].iloc[0])
        seeds = int(part["n"].max())
        cells = [_entry(found.get((method, name)), percent, seeds) for name in chosen]
        paired = [_entry(gained.get((method, name)), points, seeds) for name in chosen]
        own = added[added["method"] == method].to_dict("records")
        choice = estimate_entry(own[0], points, seeds) if own else Entry("–")
        rows.append((Entry(method), number(seeds, "{:.0f}".format), *cells, choice, *paired, marks))
    what = (
        "Best test − last: what choosing the epoch on the test classes adds to a figure, by the choice alone. "
        "Gain: difference to the base, paired by seed."
    )
    return Table(
        f"selection_{group.slug}",
        f"{metric_name(metric)} on {group.title} by how the epoch was chosen",
        ("Method", "Seeds", *(SHORT[name] for name in chosen), "Best test − last",
         *(f"Gain, {SHORT[name].lower()}" for name in chosen), "Marks"),
        tuple(rows),
        (
            "In percent, differences in points: mean over seeds [95% t-interval].",
            what,
            *few_seeds(trained),
        ),
    )  # fmt: skip


def _by_choice(rows: pd.DataFrame) -> dict[tuple[str, str], Mapping[Hashable, Any]]:
    return {(row["method"], row["selection"]): row for row in rows.to_dict("records")}


def _entry(row: Mapping[Hashable, Any] | None, write: Callable[[float], str], seeds: int) -> Entry:
    return estimate_entry(row, write, seeds) if row else Entry("")
