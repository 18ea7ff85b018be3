"""Claims declared before the runs, each tested as one question: a gate, then every base.

The gate is the modifier's main effect: for each seed the differences to the base, averaged over datasets and then over
bases, tested by a paired t-test at .05. Only where it is not 0 can a base be better or worse. The p-values of bases are
corrected by Holm's method with the gate as its first test (Shaffer 1986, "Modified sequentially rejective multiple
test procedures", JASA 81): the chance of any false better or worse within the claim is at most 5%. Equivalence is
corrected apart: over the bases by Holm's method, at 5%, and for the main effect not at all, at another 5%; where every
effect is just the smallest of interest, some false equivalence comes in up to 10% of claims. "Consistently" is an
intersection-union test (Berger 1982, Technometrics 24) behind the same gate: the main effect is above 0, and every base
is better by a one-sided test at .05, which needs no correction, for all of them must be.

A verdict needs every base on every dataset that was declared.

Simulations of these rules, and of those that were not chosen, are in the tests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dmlbench.analysis.comparisons import primary, seed_pairs
from dmlbench.analysis.estimates import seed_values, verdict_selection
from dmlbench.analysis.statistics import (
    FEWEST,
    SIGNIFICANT,
    Estimate,
    Evidence,
    detectable,
    evidence,
    holm,
    seeds_needed,
    simultaneous_interval,
    t_interval,
    verdict,
)
from dmlbench.results.claims import Declared
from dmlbench.results.frames import MEAN

COLUMN = ["base", "protocol", "overrides", "dataset"]


@dataclass(frozen=True)
class Effect:
    """A modifier's effect on one base, or on all of them.

    Attributes:
        name: The base's, or "" for the main effect.
        estimate: Mean difference to the base over seeds, a fraction, with its 95% t-interval.
        evidence: Its tests, not corrected.
        p: Of the paired t-test, corrected within the claim; NaN for bases that are not tested, because the gate stayed
            closed.
        p_equivalent: Of the equivalence test, likewise corrected.
        low, high: The simultaneous interval of all bases; for the main effect its own.
        verdict: As `statistics.verdict`.
    """

    name: str
    estimate: Estimate
    evidence: Evidence
    p: float
    p_equivalent: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Judged:
    """What the results say of a claim.

    Attributes:
        declared: The claim.
        selection: How the epoch was chosen.
        main: The main effect; None where no seed has all cells.
        bases: Each base that has results.
        p_consistent: The largest one-sided p of any base; NaN without all bases, and of a single one.
        datasets: Where it is tested.
        missing: How many of its cells have no finished result.
        absent: Bases and datasets without any result, in words.
    """

    declared: Declared
    selection: str
    main: Effect | None
    bases: tuple[Effect, ...]
    p_consistent: float
    datasets: tuple[str, ...]
    missing: int
    absent: tuple[str, ...] = ()

    @property
    def consistent(self) -> bool:
        """Whether every base is better: behind the gate, so that the claim keeps its level."""
        main = self.main
        opened = main is not None and main.estimate.mean > 0 and main.p < SIGNIFICANT
        return opened and self.p_consistent < SIGNIFICANT

    @property
    def apart(self) -> tuple[str, ...]:
        """Bases whose simultaneous interval excludes 0 though the main effect opens no gate for them."""
        if self.main is None or self.main.p < SIGNIFICANT:
            return ()
        return tuple(base.name for base in self.bases if base.low > 0 or base.high < 0)


def judge(declared: Declared, results: pd.DataFrame, selection: str = "") -> Judged:
    """Test a claim.

    Args:
        declared: The claim with the hashes of its cells.
        results: As `load_results` returns them, not filtered; rows of other cells are left out.
        selection: How the epoch is chosen: `last`, `validation` or `best_test` [default: as verdicts are given].
    """
    claim = declared.claim
    own = results[results["hash"].isin(declared.cells)]
    chosen = selection or verdict_selection(list(own["selection"].dropna().unique()))
    table = differences(claim.modifier, claim.metric, own, chosen)
    there = set(zip(*(table.columns.get_level_values(name) for name in ("base", "dataset")), strict=True))
    datasets = declared.datasets or tuple(dict.fromkeys(map(str, own["dataset"])))
    absent = tuple(f"{base} on {name}" for base in claim.bases for name in datasets if (base, name) not in there)
    missing = len(declared.cells) - own.loc[own["status"] == "done", "hash"].nunique()
    whole = table.dropna()
    if not len(whole) or absent:
        return Judged(declared, chosen, None, (), float("nan"), datasets, missing, absent)
    effect = claim.effect / 100
    of_bases = pd.DataFrame({base: whole.loc[:, [base]].mean(axis="columns") for base in claim.bases})
    main = _main(of_bases.mean(axis="columns"), effect)
    found = _bases(of_bases, effect, gate=main.p)
    return Judged(declared, chosen, main, found, _one_sided(found), datasets, missing)


def differences(modifier: str, metric: str, results: pd.DataFrame, selection: str) -> pd.DataFrame:
    """Differences to the base: a row per seed, a column per base and dataset; NaN where a seed lacks one of the two."""
    values = seed_values(results)
    values = values[(values["metric"] == metric) & (values["selection"] == selection)]
    pairs = primary(seed_pairs(values))
    pairs = pairs[(pairs["modifier"] == modifier) & (pairs["network"] == MEAN)]
    found = pairs.assign(difference=pairs["value"] - pairs["value_to"])
    table = found.pivot_table(index="seed", columns=COLUMN, values="difference", aggfunc="first", sort=False)
    return table if len(found) else pd.DataFrame(columns=pd.MultiIndex.from_tuples([], names=COLUMN))


def claims_frame(judged: Sequence[Judged]) -> pd.DataFrame:
    """Every effect of every claim as a row; its `base` is "" in the row of the main effect."""
    return pd.DataFrame([_row(own, effect) for own in judged for effect in (own.main, *own.bases) if effect])


def _row(judged: Judged, effect: Effect) -> dict[str, object]:
    claim, estimate = judged.declared.claim, effect.estimate
    smallest, std = claim.effect / 100, estimate.std
    # Bases are corrected for each other: the level of the strictest step, which the first of them to be found needs.
    level = SIGNIFICANT / max(len(judged.bases) - 1, 1) if effect.name else SIGNIFICANT
    return {
        "modifier": claim.modifier,
        "bases": ", ".join(claim.bases),
        "base": effect.name,
        "over": ", ".join(judged.datasets),
        "metric": claim.metric,
        "selection": judged.selection,
        "declared": judged.declared.declared,
        "begun": judged.declared.begun,
        "cells": len(judged.declared.cells),
        "missing": judged.missing,
        **{name: getattr(estimate, name) for name in ("mean", "low", "high", "std", "n")},
        "all_low": effect.low,
        "all_high": effect.high,
        "verdict": effect.verdict,
        "p": effect.p,
        "p_sign_flip": effect.evidence.p_sign_flip,
        "effect": smallest,
        "detectable": detectable(std, estimate.n, level),
        "seeds_needed": seeds_needed(std, smallest, level) if std > 0 else float("nan"),
        "p_consistent": float("nan") if effect.name else judged.p_consistent,
        "consistent": "" if effect.name or math.isnan(judged.p_consistent) else judged.consistent,
    }


def _main(sample: pd.Series, effect: float) -> Effect:
    estimate, tested = t_interval(sample), evidence(sample, effect=effect)
    judged = verdict(estimate.n, estimate.mean, tested.p_t, tested.p_equivalent)
    return Effect("", estimate, tested, tested.p_t, tested.p_equivalent, estimate.low, estimate.high, judged)


def _bases(table: pd.DataFrame, effect: float, gate: float) -> tuple[Effect, ...]:
    """The effect on each base, corrected within the claim; `gate` is the p of the main effect."""
    estimates = [t_interval(table[base]) for base in table]
    tests = [evidence(table[base], effect=effect) for base in table]
    if len(tests) == 1:
        p = [gate]
    elif gate < SIGNIFICANT:
        p = [max(gate, own) for own in protected_holm([own.p_t for own in tests])]
    else:
        p = [float("nan") for _ in tests]
    p_equivalent = holm([own.p_equivalent for own in tests])
    found = []
    for base, estimate, tested, own, same in zip(table, estimates, tests, p, p_equivalent, strict=True):
        low, high = simultaneous_interval(estimate, len(tests))
        judged = verdict(estimate.n, estimate.mean, own, same)
        found.append(Effect(str(base), estimate, tested, own, same, low, high, judged))
    return tuple(found)


def protected_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values where a test of the whole family has rejected already.

    That test stands for the intersection of all m hypotheses, so that the smallest p-value needs the factor m - 1
    instead of m, as the second has: closed testing with Bonferroni's method for every smaller intersection.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    factors = np.minimum(len(p) - np.arange(len(p)), max(len(p) - 1, 1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return [float(value) for value in corrected]


def _one_sided(bases: Sequence[Effect]) -> float:
    """The largest p of any base against "not better"; NaN with too few seeds, and for a single base."""
    if len(bases) < 2 or any(base.estimate.n < FEWEST for base in bases):
        return float("nan")
    halves = [base.evidence.p_t / 2 for base in bases]
    return max(half if base.estimate.mean > 0 else 1 - half for base, half in zip(bases, halves, strict=True))
