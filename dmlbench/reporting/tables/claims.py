"""Declared claims: what each says, when it was declared, and what the results say of it."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from dmlbench.analysis.claims import Effect, Judged
from dmlbench.analysis.estimates import SELECTIONS
from dmlbench.analysis.groups import slug
from dmlbench.analysis.statistics import detectable, seeds_needed
from dmlbench.errors import counted
from dmlbench.reporting.naming import metric_name, p_value, percent, points
from dmlbench.reporting.tables.comparison import LABELS
from dmlbench.reporting.tables.table import Entry, Table, estimate_entry, number

RULES = (
    "The main effect is the mean of all bases for each seed, by a paired t-test. Only where it is not 0 are bases "
    "tested for better or worse. p of bases: Holm's method with the main effect as its first test, so that the "
    "probability of any false better, worse or shown within the claim is at most 5%. Equivalence is tested apart: of "
    "the main effect at 5%, and of the bases at 5% together. Simultaneous interval: covers the effects on all bases "
    "together with 95%."
)


def claim_tables(judged: Sequence[Judged]) -> list[Table]:
    """One table per claim: its main effect, each base, and whether it holds for every base.

    Args:
        judged: As `claims.judge` gives them.
    """
    return [_table(own, number_, _others(own, judged)) for number_, own in enumerate(judged, start=1)]


def _others(own: Judged, judged: Sequence[Judged]) -> int:
    """How many other claims are decided by some of the same cells."""
    cells = set(own.declared.cells)
    return sum(other is not own and not cells.isdisjoint(other.declared.cells) for other in judged)


def _table(judged: Judged, number_: int, others: int) -> Table:
    claim = judged.declared.claim
    where = ", ".join(judged.datasets) or "no dataset with results"
    title = f"Claim: {claim.title} in {metric_name(claim.metric)} on {where}; {SELECTIONS[judged.selection]}"
    several = len(claim.bases) > 1
    rows = [_row("all bases (main effect)", judged.main)] if judged.main and several else []
    rows += [_row(effect.name, effect) for effect in judged.bases]
    if judged.bases and not math.isnan(judged.p_consistent):
        shown = f"▲ shown{_by_less(judged)}" if judged.consistent else "○ not shown"
        verdict = Entry(shown, kind="better" if judged.consistent else "inconclusive")
        blank = Entry("")
        rows.append(
            (
                Entry("every base (consistently)"),
                blank,
                blank,
                verdict,
                blank,
                number(judged.p_consistent, p_value),
                blank,
            )
        )
    return Table(
        f"claim_{number_}_{slug(claim.modifier)}",
        title,
        ("Base", "Seeds", "Difference", "Verdict", "Simultaneous interval", "p", "p, sign-flip"),
        tuple(rows),
        (*_notes(judged), *([FAMILY.format(counted(others, "other claim"))] if others else [])),
    )


FAMILY = "{} on some of the same cells: each has its own 5%, and several are more likely to find something."


def _by_less(judged: Judged) -> str:
    """Better may be by less than matters."""
    return ", by less than the smallest effect" if any(own.verdict == "equivalent" for own in judged.bases) else ""


def _row(name: str, effect: Effect) -> tuple[Entry, ...]:
    estimate = effect.estimate
    both = "–" if math.isnan(effect.low) else f"[{points(effect.low)}, {points(effect.high)}]"
    return (
        Entry(name),
        number(estimate.n, "{:.0f}".format),
        estimate_entry(dict(asdict(estimate).items()), points, estimate.n),
        Entry(LABELS[effect.verdict], kind=effect.verdict),
        Entry(both),
        number(effect.p, p_value),
        number(effect.evidence.p_sign_flip, p_value),
    )


def _notes(judged: Judged) -> list[str]:
    claim, notes = judged.declared.claim, [f"{judged.declared.when[0].upper()}{judged.declared.when[1:]}."]
    one = claim.effect == 1
    effect = f"{claim.effect:g} {'point' if one else 'points'}"
    if judged.missing:
        notes.append(f"{counted(judged.missing, 'cell')} of {len(judged.declared.cells)} without a result so far.")
    if judged.main is None:
        absent = f" None of {', '.join(judged.absent)}." if judged.absent else ""
        return [*notes, f"No verdict: every base needs a seed with results on every dataset.{absent}"]
    if judged.apart:
        notes.append(
            f"The bases differ: the simultaneous interval of {', '.join(judged.apart)} excludes 0, which the mean over "
            "bases hides. A claim tests the mean first, so that is no verdict of it."
        )
    notes.append("In points: mean of the paired differences [95% t-interval].")
    notes.append(f"Equivalent: shown to be smaller than {effect}, the smallest effect of interest.")
    std, n = judged.main.estimate.std, judged.main.estimate.n
    if std > 0:
        found = f"with {n} seeds a main effect of {percent(detectable(std, n))} points is found in 80% of studies"
        needed = f"{effect} {'needs' if one else 'need'} {seeds_needed(std, claim.effect / 100)} seeds"
        notes.append(f"Power: {found}; {needed}.")
    return [*notes, RULES if len(claim.bases) > 1 else "p: paired t-test."]
