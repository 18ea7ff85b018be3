"""Seed-paired differences in words and in tables, within one dataset and over several of one protocol."""

import math
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dmlbench.analysis.comparisons import DATASETS_FOR_RANKS, FEWEST_FOR_QUARTERS, critical_difference
from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import Group, in_order, modifier_rank
from dmlbench.analysis.statistics import EFFECT, EXACT, FEWEST, SIGNIFICANT, detectable, seeds_needed
from dmlbench.reporting.naming import metric_name, p_value, percent, plain, points, table_metrics
from dmlbench.reporting.tables.table import (
    Entry,
    Table,
    by_method,
    estimate_entry,
    few_pairs,
    few_seeds,
    interval_of,
    metrics_row,
    number,
    reach,
    without_base,
)

EVIDENCE = ("Difference", "Verdict", "Simultaneous interval", "p", "p, sign-flip", "Effect size", "P(better)")
HOW_TO_READ = (
    "Effect size: mean over standard deviation of the paired differences, with Hedges' correction. P(better): the "
    "chance that a run of the method beats a run of the other, without pairing (probability of improvement, with "
    "Newcombe's 95% interval)."
)


def difference_table(group: Group, selection: str, differences: pd.DataFrame, accuracy: pd.DataFrame) -> Table:
    """Every method's difference to its reference in percentage points, paired by seed.

    Args:
        group: What all methods share.
        selection: A key of `SELECTIONS`.
        differences: Rows of `comparisons.primary`; those of other groups and selections are left out.
        accuracy: Rows of `estimates.accuracy`, for the methods that have no pair.
    """
    mine = group.of(differences)
    mine = mine[mine["selection"] == selection]
    metrics = table_metrics(mine["metric"])
    return Table(
        f"difference_{group.slug}_{selection}",
        f"Difference to the reference on {group.title}; {SELECTIONS[selection]}",
        ("Method", "Against", "Pairs", *map(metric_name, metrics), "Marks"),
        tuple(
            (row[0], Entry(part["to_name"].iloc[0]), *row[1:])
            for part in by_method(mine)
            for row in [metrics_row(part, metrics, points)]
        ),
        (
            "In percentage points: mean of the differences per seed [paired 95% t-interval].",
            "Intervals are not corrected for the number of comparisons.",
            *few_seeds(mine),
            *without_base(group.of(accuracy), mine),
        ),
    )


def evidence_table(group: Group, selection: str, metric: str, compared: pd.DataFrame) -> Table:
    """One metric: every method against its reference and against the other modifiers of its base, with its tests.

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
    several = "" if math.isnan(row["all_low"]) else f"[{points(row['all_low'])}, {points(row['all_high'])}]"
    chance = "" if math.isnan(row["improvement_low"]) else interval_of(row, plain, "improvement_")
    return (
        estimate_entry(row, points, row["n"]),
        Entry(LABELS[row["verdict"]], kind=row["verdict"]),
        Entry(several or "–", value=None if math.isnan(row["all_low"]) else row["all_low"]),
        number(row["p_bh"], p_value),
        number(row["p_sign_flip"], p_value),
        number(row["effect_size"], plain),
        number(row["probability_of_improvement"], plain, chance),
    )


def evidence_notes(compared: pd.DataFrame, effect: float = EFFECT) -> list[str]:
    """How to read the columns `EVIDENCE`, and what effect the seeds could have shown."""
    family = int(compared["family"].max()) if len(compared) else 0
    among = f"the {family} comparisons of this table" if family > 1 else "one comparison, which leaves it as it is"
    if family != len(compared):
        among = f"the {family} of the {len(compared)} comparisons that have {FEWEST} pairs or more"
    exact = "exact" if compared["n"].max() <= EXACT else f"exact up to {EXACT} pairs, else drawn"
    together = f"Simultaneous interval: covers all {family} differences together with 95% (Bonferroni). "
    together = together if family > 1 else ""
    tested = [
        (
            "Exploratory: claims have their tables. p: paired t-test, corrected by Benjamini and Hochberg's method for "
            f"{among}: on average at most 5% of better and worse are false."
        ),
        f"Equivalent: two one-sided t-tests, corrected alike, show a difference of less than {points(effect)} point.",
        f"{together}p, sign-flip: {exact}, two-sided, not corrected.",
    ]
    return [
        "In percentage points: mean of the differences per seed [paired 95% t-interval of this one comparison].",
        *(tested if family else ["Too few pairs for any test."]),
        *power(compared, effect),
        *reach(compared),
        HOW_TO_READ,
    ]


def effect_in_words(effect: float) -> str:
    """`1 point needs`, `2 points need`."""
    return f"{100 * effect:g} {'point needs' if 100 * effect == 1 else 'points need'}"


def power(compared: pd.DataFrame, effect: float = EFFECT) -> list[str]:
    """What effect the seeds could have shown, and how many seeds the smallest effect of interest needs.

    Args:
        compared: Rows of `comparisons`.
        effect: The smallest effect of interest, a fraction.
    """
    tested = compared[compared["n"] >= FEWEST]
    spread = float(tested["std"].median()) if len(tested) else 0.0
    if not spread > 0:
        return []
    n = int(tested["n"].median())
    found = f"with {n} seeds a true difference of {percent(detectable(spread, n))} points is found in 80% of studies"
    needed = f"{effect_in_words(effect)} {seeds_needed(spread, effect)} seeds"
    level = f"one test at .05, at the median standard deviation of these differences, {percent(spread)} points"
    return [f"Power: {found}; {needed} ({level})."]


def ordered(compared: pd.DataFrame) -> Iterator[Mapping[Hashable, Any]]:
    """Comparisons in the order of their methods, each against its base first."""
    found: dict[str, list[Mapping[Hashable, Any]]] = {}
    for row in compared.to_dict("records"):
        found.setdefault(row["name"], []).append(row)
    for name in in_order(compared.drop_duplicates("name"))["name"]:
        yield from sorted(found[name], key=_rank_of_other)


def _rank_of_other(row: Mapping[Hashable, Any]) -> tuple[bool, Any]:
    return not row["primary"], modifier_rank(row["to_modifier"], row["to_modifier_settings"], row["to_network"])


LABELS = {
    "better": "▲ better",
    "worse": "▼ worse",
    "equivalent": "= equivalent",
    "inconclusive": "○ inconclusive",
    "": "? too few seeds",
}


@dataclass(frozen=True)
class Verdict:
    """What the evidence says of one method; `kind` is a key of `LABELS`.

    `row` is the comparison with its reference, `ratio` the step time over the reference's, a row of
    `precedence.with_interleaved`; None where it was not measured.
    """

    kind: str
    row: Mapping[Hashable, Any]
    ratio: Mapping[Hashable, Any] | None

    @property
    def sign(self) -> str:
        """The kind in one character."""
        return LABELS[self.kind][0]


def verdicts(group: Group, compared: pd.DataFrame, overhead: pd.DataFrame) -> list[Verdict]:
    """One verdict per method of a group that has a reference.

    Args:
        group: What all methods share.
        compared: Rows of `comparisons.primary` of one selection and metric.
        overhead: Rows of `precedence.with_interleaved`.
    """
    ratios = {row["name"]: row for row in group.of(overhead).to_dict("records") if row["n"]}
    return [Verdict(str(row["verdict"]), row, ratios.get(row["name"])) for row in ordered(group.of(compared))]


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
            (
                "Interquartile mean: mean of the middle half of all runs, in percent [95% bootstrap interval]; none of "
                f"fewer than {FEWEST_FOR_QUARTERS} runs."
            ),
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
        return f"Friedman's test (p {p}) shows no difference."
    return f"Friedman's test shows differences (p {p}): {apart}"
