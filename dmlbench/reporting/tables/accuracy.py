"""Accuracy of every method, and the three choices of the epoch side by side.

Published figures beside ours.

Tuned values beside those of the methods' files.

Query by query: what each seed wins and loses, and how far the difference depends on the test classes.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from dmlbench.analysis.estimates import SELECTIONS, selections_of
from dmlbench.analysis.groups import Group
from dmlbench.analysis.leaderboard import METRICS
from dmlbench.analysis.variance import DIFFERENCE, SOURCES
from dmlbench.reporting.naming import metric_name, percent, plain, points, table_metrics
from dmlbench.reporting.tables.table import (
    Entry,
    Table,
    by_method,
    estimate_entry,
    few_seeds,
    interval_of,
    metrics_row,
    number,
)
from dmlbench.results.frames import UNTRAINED

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


def leaderboard_table(
    group: Group, selection: str, board: pd.DataFrame, over_classes: pd.DataFrame | None = None
) -> Table:
    """Every method, the best first, with the ranks that it may have.

    Args:
        group: What all methods share.
        selection: A key of `SELECTIONS`.
        board: Rows of `leaderboard.leaderboard`; those of other groups and selections are left out.
        over_classes: Rows of `variance.over_test_classes`, of the last epoch; those of other groups are left out.
    """
    mine = group.of(board)
    mine = mine[mine["selection"] == selection]
    kept = group.of(over_classes) if over_classes is not None and selection == "last" else mine.iloc[:0]
    classes = {row["name"]: row for row in kept.to_dict("records")}
    metrics = [metric for metric in METRICS if metric in set(mine["metric"])]
    by_metric = {metric: {row["name"]: row for row in _rows(mine, metric)} for metric in metrics}
    rows = []
    for row in _rows(mine, metrics[0]):
        seeds = int(row["n"])
        found = [by_metric[metric].get(row["name"]) for metric in metrics]
        pairs = [
            (estimate_entry(own, percent, seeds), Entry(rank_range(own))) if own else (Entry("–"),) * 2 for own in found
        ]
        figures = [entry for pair in pairs for entry in pair]
        own = classes.get(row["name"])
        figures += [Entry(interval_of(own, percent), value=own["low"]) if own else Entry("–")] if classes else []
        of_seeds = number(seeds, "{:.0f}".format) if seeds else Entry("–")
        rows.append((Entry(row["name"]), of_seeds, *figures, Entry(row["marks"])))
    trained = mine[mine["n"] > 0]
    return Table(
        f"leaderboard_{group.slug}_{selection}",
        f"Leaderboard of {group.title}; {SELECTIONS[selection] if len(trained) else NOT_TRAINED}",
        ("Method", "Seeds", *(name for metric in metrics for name in (metric_name(metric), "Rank")),
         *(["R@1 over classes"] if classes else []), "Marks"),
        tuple(rows),
        (
            BOARD,
            *rank_note(trained[trained["metric"] == metrics[0]], RANKS),
            *([OVER_CLASSES] if classes else []),
            *few_seeds(trained),
            *([] if len(trained) == len(mine) else [GIVEN]),
        ),
    )  # fmt: skip


BOARD = "In percent, the best first: mean over seeds [95% t-interval]."
RANKS = (
    "Rank {}, of {} rows: the comparisons (paired t-tests of all pairs, Holm, .05) do not decide which of them it is. "
    "That is no evidence that methods are equal."
)
NOT_TRAINED = "not trained here"
GIVEN = (
    "A row without seeds is of embeddings that were given, or of a network as it is: not trained here, so it has no "
    "interval, no rank and no verdict."
)
OVER_CLASSES = (
    "R@1 over classes: the 95% percentile bootstrap interval of the same mean over test classes, where embeddings were "
    "kept: how far it would move with other classes of the same kind."
)


def _rows(board: pd.DataFrame, metric: str) -> list[Mapping[Hashable, Any]]:
    return list(board[board["metric"] == metric].to_dict("records"))


def rank_note(trained: pd.DataFrame, words: str) -> list[str]:
    """Words on ranks that comparisons leave open, with the first such range and the number of rows, if there is one."""
    left_open = [rank for rank in map(rank_range, trained.to_dict("records")) if "–" in rank.strip("–")]
    return [words.format(left_open[0], len(trained))] if left_open else []


def rank_range(row: Mapping[Hashable, Any]) -> str:
    """The ranks that a row of `leaderboard` may have, the best first; a dash for what was not trained."""
    if not row["n"]:
        return "–"
    best, worst = row["best_rank"], row["worst_rank"]
    return str(best) if best == worst else f"{best}–{worst}"


def selection_table(
    group: Group, metric: str, accuracy: pd.DataFrame, differences: pd.DataFrame, optimism: pd.DataFrame
) -> Table:
    """One metric under every choice of the epoch, the gain over the base under each, and what the choice adds.

    Args:
        group: What all methods share.
        metric: The metric to show.
        accuracy: Rows of `estimates.accuracy`.
        differences: Rows of `comparisons.primary`.
        optimism: Rows of `estimates.optimism`.
    """
    means, gains, added = (
        mine[mine["metric"] == metric] for mine in (group.of(frame) for frame in (accuracy, differences, optimism))
    )
    chosen, trained = selections_of(means), means[means["selection"] != UNTRAINED]
    found, gained = _by_choice(trained), _by_choice(gains)
    rows = []
    for part in by_method(trained):
        method, marks = part["name"].iloc[0], Entry(part["marks"].iloc[0])
        seeds = int(part["n"].max())
        cells = [_entry(found.get((method, name)), percent, seeds) for name in chosen]
        paired = [_entry(gained.get((method, name)), points, seeds) for name in chosen]
        own = added[added["name"] == method].to_dict("records")
        choice = estimate_entry(own[0], points, seeds) if own else Entry("–")
        rows.append((Entry(method), number(seeds, "{:.0f}".format), *cells, choice, *paired, marks))
    what = (
        "Best test − last: what choosing the epoch on the test classes adds to a figure, by the choice alone. "
        "Gain: difference to the reference, paired by seed."
    )
    return Table(
        f"selection_{group.slug}",
        f"{metric_name(metric)} on {group.title} by how the epoch was chosen",
        ("Method", "Seeds", *(SHORT[name] for name in chosen), "Best test − last",
         *(f"Gain, {SHORT[name].lower()}" for name in chosen), "Marks"),
        tuple(rows),
        (
            ("In percent, differences in points: mean over seeds [95% t-interval; of best test − last, which cannot be "
            "negative, the bootstrap's]."),
            what,
            *few_seeds(trained),
        ),
    )  # fmt: skip


def _by_choice(rows: pd.DataFrame) -> dict[tuple[str, str], Mapping[Hashable, Any]]:
    return {(row["name"], row["selection"]): row for row in rows.to_dict("records")}


def _entry(row: Mapping[Hashable, Any] | None, write: Callable[[float], str], seeds: int) -> Entry:
    return estimate_entry(row, write, seeds) if row else Entry("")


EPOCH = {"best-test": "best test", "last": "last", "validation": "validation", "unknown": "unknown"}


def reproduction_table(found: pd.DataFrame) -> Table:
    """Every published figure of a method and dataset that there are results of.

    Args:
        found: As `published.reproduction` returns it.
    """
    rows = []
    for row in found.to_dict("records"):
        theirs = number(row["published"], percent)
        if not pd.isna(row["published_std"]):
            theirs = replace(theirs, spread=f"± {percent(row['published_std'])}")
        gap = "" if pd.isna(row["difference_low"]) else _interval(row["difference_low"], row["difference_high"], points)
        ours = "" if row["n"] < 2 else _interval(row["low"], row["high"], percent)
        rows.append((
            Entry(row["name"]), Entry(row["dataset"]), Entry(metric_name(row["metric"])),
            Entry(EPOCH[row["published_selection"]]), theirs, number(row["published_seeds"], "{:.0f}".format),
            number(row["mean"], percent, ours), number(row["n"], "{:.0f}".format),
            number(row["difference"], points, gap), Entry(row["not_comparable"]), Entry(row["source"]),
        ))  # fmt: skip
    return Table(
        "reproduction",
        "Published and reproduced",
        ("Method", "Dataset", "Metric", "Epoch", "Published", "Their seeds", "Ours", "Our seeds", "Difference",
         "Not compared", "Source"),
        tuple(rows),
        (
            "In percent, differences in points. Ours at the same choice of the epoch as theirs [95% t-interval].",
            "Difference: ours minus theirs [Welch's 95% interval; of our mean alone where theirs has no spread].",
        ),
    )  # fmt: skip


def _interval(low: float, high: float, write: Callable[[float], str]) -> str:
    return f"[{write(low)}, {write(high)}]"


def tuning_table(group: Group, found: pd.DataFrame) -> Table:
    """What tuning changed on one dataset.

    Args:
        group: Protocol and dataset.
        found: Rows of `tuning.tuned_beside_files` of the group, one selection and one metric.
    """
    first = found.iloc[0]
    rows = [
        (Entry(row["name"]), Entry(row["budget"]), Entry(row["margin"]), number(row["n"], "{:.0f}".format),
         number(row["mean_of_files"], percent), number(row["mean_of_tuned"], percent),
         number(row["mean"], points, interval_of(row, points)), Entry(row["marks"]))
        for row in found.to_dict("records")
    ]  # fmt: skip
    metric = metric_name(first["metric"])
    return Table(
        f"tuning_{group.slug}_{first['selection']}",
        f"Tuned values beside the files' on {group.title}; {SELECTIONS[first['selection']]}",
        ("Method", "Budget", "Won by", "Seeds", f"{metric}, files' values", f"{metric}, tuned", "Difference", "Marks"),
        tuple(rows),
        (
            "In percent; difference, in points: tuned minus files' values, by seed [95% t-interval]; not tested.",
            "The test classes chose nothing.",
            CHOSEN,
        ),
    )


CHOSEN = (
    "Chosen by MAP@R in class-disjoint folds of the training classes, with budgets in epochs of training. Won by: the "
    "paired mean difference over (fold, seed) pairs ± its standard error; the files' values stay where it is no larger."
)


def studies_table(group: Group, finalists: pd.DataFrame) -> Table:
    """What each repeated study of tuning chose on one dataset, and by how much.

    Args:
        group: Protocol and dataset.
        finalists: Rows of `studies.read_finalists` of the group.
    """
    rows = []
    for _, own in finalists.groupby(["name", "study"], sort=False):
        files, chosen = (own[own[column]] for column in ("files", "chosen"))
        scores = (float(part["held_out"].iloc[0]) if len(part) else math.nan for part in (files, chosen))
        first = own.iloc[0]
        names = (Entry(first["name"]), Entry(str(first["study"]), value=float(first["study"])), Entry(first["budget"]))
        rows.append(
            (*names, *(number(each, percent) for each in scores), Entry(first["margin"]), Entry(first["choice"]))
        )
    return Table(
        f"tuning_studies_{group.slug}",
        f"What each study of tuning chose on {group.title}",
        ("Method", "Study", "Budget", "Files' values", "Chosen", "Won by", "Chosen values"),
        tuple(rows),
        (
            "In percent: MAP@R on held-out training classes, mean over (fold, seed) pairs; optimistic where chosen.",
            "Studies differ in the values tried, the folds and the seeds. Rows {tuned} have the values of the first.",
        ),
    )


def variance_table(group: Group, found: pd.DataFrame) -> Table:
    """Standard deviations by source.

    Args:
        group: What all methods share.
        found: Rows of `variance.variances`; those of other groups are left out.
    """
    rows = []
    for part in by_method(group.of(found)):
        for source, title in SOURCES.items():
            own = part[part["source"] == source]
            if len(own):
                by_metric = {row["metric"]: row for row in own.to_dict("records")}
                name, n = Entry(part["name"].iloc[0]), number(own["n"].max(), "{:.0f}".format)
                stds = (_std(by_metric.get(metric)) for metric in (*METRICS, DIFFERENCE))
                rows.append((name, Entry(title), n, *stds))
    return Table(
        f"variance_{group.slug}",
        f"Sources of variance of {group.title}; last epoch",
        ("Method", "Varied", "n", *map(metric_name, METRICS), "R@1, difference"),
        tuple(rows),
        (
            "Standard deviation in points [95% interval, chi-squared]. Difference: to the reference, paired.",
            "n: number of seeds, of test classes (which a bootstrap draws), or of studies of tuning.",
            "What is not varied is as in seed 0 (run --vary).",
        ),
    )


def _std(row: Mapping[Hashable, Any] | None) -> Entry:
    if row is None:
        return Entry("")
    interval = "" if pd.isna(row["low"]) else f"[{plain(100 * row['low'])}, {plain(100 * row['high'])}]"
    return number(100 * row["std"], plain, interval)


def queries_table(group: Group, evidence: pd.DataFrame) -> Table:
    """A row per method and seed against its reference.

    Args:
        group: What all methods share.
        evidence: Rows of `queries.query_evidence`; those of other groups are left out.
    """
    rows = []
    for part in by_method(group.of(evidence)):
        for row in part.sort_values("seed").to_dict("records"):
            interval = "" if pd.isna(row["low"]) else f"[{points(row['low'])}, {points(row['high'])}]"
            counts = (number(row[name], "{:,.0f}".format) for name in ("won", "lost", "both", "neither"))
            names = (Entry(row["name"]), Entry(row["to_name"]), number(row["seed"], "{:.0f}".format))
            rows.append((*names, number(row["difference"], points, interval), *counts))
    mine = group.of(evidence)
    classes = ", ".join(f"{count:,}" for count in sorted(set(mine["classes"])))
    return Table(
        f"queries_{group.slug}",
        f"R@1 query by query on {group.title}; last epoch",
        ("Method", "Against", "Seed", "Difference", "Won", "Lost", "Both right", "Both wrong"),
        tuple(rows),
        (
            "In percentage points, within one seed [95% percentile bootstrap over test classes, paired by query].",
            f"The interval covers the choice of the {classes} test classes, not of the seed.",
            "Won: the reference misses and the method hits; lost: the other way round.",
        ),
    )
