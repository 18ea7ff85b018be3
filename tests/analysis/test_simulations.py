"""What verdicts do in many simulated studies; R@1 in points, with the standard deviation of omniglot-small."""

import numpy as np
import pytest

from dmlbench.analysis.claims import protected_holm
from dmlbench.analysis.statistics import (
    Estimate,
    benjamini_hochberg,
    detectable,
    evidence,
    holm,
    seeds_needed,
    simultaneous_interval,
    t_interval,
    verdict,
)

SD, STUDIES = 1.3, 1500


def studies(effects, n, rho=0.0, count=STUDIES):
    """(count, n, bases): paired differences of seeds; `rho` correlates the bases of a seed."""
    rng, bases = np.random.default_rng(0), len(effects)
    shared = np.sqrt(rho) * rng.standard_normal((count, n, 1))
    own = np.sqrt(1 - rho) * rng.standard_normal((count, n, bases))
    return SD * (shared + own) + np.asarray(effects)


def p_of(sample):
    return evidence(sample, effect=1.0).p_t


def claimed(study):
    """Whether the main effect, and each base, differs from 0 by the rules of a claim."""
    if p_of(study.mean(axis=1)) >= 0.05:
        return False, np.zeros(study.shape[1], dtype=bool)
    return True, np.array(protected_holm([p_of(own) for own in study.T])) < 0.05


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_the_gate_keeps_its_level_and_no_base_is_found_where_none_is(rho):
    found = [claimed(study) for study in studies([0.0] * 4, 6, rho)]
    assert np.mean([main for main, _ in found]) == pytest.approx(0.05, abs=0.015)
    assert np.mean([bases.any() for _, bases in found]) <= 0.05


def test_one_base_without_effect_among_three_with():
    found = [claimed(study)[1] for study in studies([2.0, 2.0, 2.0, 0.0], 6)]
    assert np.mean([bases[3] for bases in found]) <= 0.065
    assert np.mean([bases[:3].mean() for bases in found]) > 0.6


@pytest.mark.parametrize(("effect", "main", "single"), [(0.6, 0.41, 0.05), (1.0, 0.81, 0.19), (2.0, 1.0, 0.71)])
def test_power_of_the_main_effect_and_of_single_bases(effect, main, single):
    """Six seeds and four bases: the main effect of 0.6 points is found as often as a single base's of 1.3."""
    found = [claimed(study) for study in studies([effect] * 4, 6)]
    assert np.mean([opened for opened, _ in found]) == pytest.approx(main, abs=0.04)
    assert np.mean([bases.mean() for _, bases in found]) == pytest.approx(single, abs=0.05)


@pytest.mark.parametrize("bases", [5, 20])
def test_simultaneous_intervals_cover_all_means_together(bases):
    covered = []
    for study in studies([0.5] * bases, 6, 0.3, count=600):
        bounds = [simultaneous_interval(t_interval(own), bases) for own in study.T]
        covered.append(all(low <= 0.5 <= high for low, high in bounds))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_equivalence_keeps_its_level_at_the_smallest_effect_of_interest():
    found = [evidence(study[:, 0], effect=3.0).p_equivalent < 0.05 for study in studies([3.0], 8)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.015)
    equal = [evidence(study[:, 0], effect=3.0).p_equivalent < 0.05 for study in studies([0.0], 8)]
    assert np.mean(equal) > 0.9


def test_equivalence_within_a_claim_is_wrong_in_a_twentieth_for_the_bases_and_in_a_tenth_at_all():
    """The worst case: every effect is just the smallest of interest, so that no equivalence is true."""
    bases, whole = [], []
    for study in studies([3.0] * 4, 6):
        each = holm([evidence(own, effect=3.0).p_equivalent for own in study.T])
        bases.append(min(each) < 0.05)
        whole.append(bases[-1] or evidence(study.mean(axis=1), effect=3.0).p_equivalent < 0.05)
    assert np.mean(bases) <= 0.065
    assert np.mean(whole) <= 0.115


def test_false_discoveries_are_a_twentieth_at_most():
    effects, shares = np.array([0.0] * 10 + [2.0] * 10), []
    for study in studies(effects, 6, count=400):
        found = np.array(benjamini_hochberg([p_of(own) for own in study.T])) < 0.05
        shares.append(found[effects == 0].sum() / max(found.sum(), 1))
    assert np.mean(shares) <= 0.05


def test_the_planted_study():
    """40 methods, 4 datasets, 6 seeds: PSD adds 0.6 points to each of 20 bases; Holm over all finds next to none."""
    (study,) = studies([0.6] * 80, 6, count=1)
    stars = sum(p < 0.05 for p in holm([p_of(own) for own in study.T]))
    assert stars <= 1
    main = t_interval(study.mean(axis=1))
    assert p_of(study.mean(axis=1)) < 0.001
    assert verdict(main.n, main.mean, 0.0005, evidence(study.mean(axis=1), effect=0.3).p_equivalent) == "better"


def test_what_seeds_can_show():
    assert detectable(SD, 6) == pytest.approx(1.865, abs=0.001)
    assert detectable(SD, 10) == pytest.approx(1.295, abs=0.001)
    assert (seeds_needed(SD, 1.0), seeds_needed(SD, 0.6)) == (16, 39)
    found = [p_of(study[:, 0]) < 0.05 for study in studies([detectable(SD, 6)], 6)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert np.isnan(simultaneous_interval(Estimate(1.0, np.nan, np.nan, 1), 3)[0])
