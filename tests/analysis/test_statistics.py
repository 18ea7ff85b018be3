import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dmlbench.analysis.statistics import (
    evidence,
    holm,
    log_ratio_interval,
    probability_of_improvement,
    smallest_p,
    t_interval,
    welch_difference,
)

FLOATS = st.floats(-1e3, 1e3)


def series(values, seeds=None):
    return pd.Series(values, index=seeds if seeds is not None else range(len(values)), dtype=float)


def test_t_interval_by_hand():
    # 1, 2, 3: mean 2, s = 1, half-width t(2; .975) / sqrt(3) = 4.302653 / 1.732051
    estimate = t_interval([1, 2, 3])
    assert (estimate.mean, estimate.n) == (2.0, 3)
    assert estimate.low == pytest.approx(2 - 2.4841377, abs=1e-6)
    assert estimate.high == pytest.approx(2 + 2.4841377, abs=1e-6)


@given(st.lists(FLOATS, min_size=2, max_size=8).filter(lambda v: np.std(v) > 1e-6))
def test_t_interval_agrees_with_scipy(values):
    estimate = t_interval(values, 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert estimate.low == pytest.approx(expected.low, abs=1e-6)
    assert estimate.high == pytest.approx(expected.high, abs=1e-6)


def test_one_value_has_no_interval():
    estimate = t_interval([0.5])
    assert (estimate.mean, estimate.n) == (0.5, 1)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_no_value_has_no_mean():
    estimate = t_interval([])
    assert estimate.n == 0
    assert math.isnan(estimate.mean)


def test_missing_values_are_left_out():
    assert t_interval([1, float("nan"), 3]).n == 2


def test_equal_values_have_an_interval_of_no_width():
    estimate = t_interval([0.25] * 4)
    assert (estimate.low, estimate.high) == (0.25, 0.25)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_out_of_range(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        t_interval([1, 2], confidence)


@pytest.mark.parametrize("n", [2, 5, 6])
def test_coverage_of_the_t_interval(n):
    samples = np.random.default_rng(0).normal(0.6, 0.01, (2000, n))
    estimates = [t_interval(sample) for sample in samples]
    covered = np.mean([estimate.low <= 0.6 <= estimate.high for estimate in estimates])
    assert abs(covered - 0.95) < 0.02


def test_coverage_of_the_ratio():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        base = rng.normal(40, 1, 5)
        estimate = log_ratio_interval(series(base * 1.3 * np.exp(rng.normal(0, 0.02, 5))), series(base))
        covered += estimate.low <= 1.3 <= estimate.high
    assert abs(covered / 2000 - 0.95) < 0.02


@given(st.lists(st.floats(1, 100), min_size=2, max_size=6))
def test_ratio_and_its_inverse_agree(times):
    base, slow = series([40.0] * len(times)), series(times)
    there, back = log_ratio_interval(slow, base), log_ratio_interval(base, slow)
    assert there.mean * back.mean == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_ratio_is_a_geometric_mean():
    estimate = log_ratio_interval(series([2, 8]), series([1, 1]))
    assert estimate.mean == pytest.approx(4)
    assert 0 < estimate.low < estimate.mean < estimate.high


def test_ratio_refuses_times_that_are_not_positive():
    with pytest.raises(ValueError, match="positive"):
        log_ratio_interval(series([1, 0]), series([1, 1]))


def test_a_worked_example_of_the_paired_tests():
    # Mean 1.5, s = sqrt(13.5 / 5), so t = 1.5 / (s / sqrt 6) = 2.23607. Of the 64 flips, 8 have a sum of +-9: both
    # zeros may take either sign.
    found = evidence([4.0, 3.0, 1.0, 1.0, 0.0, 0.0])
    assert found.p_t == pytest.approx(2 * stats.t.sf(2.2360680, 5))
    assert found.p_sign_flip == 8 / 64
    flips = np.array(list(product([-1, 1], repeat=6))) @ np.array([4, 3, 1, 1, 0, 0])
    assert found.p_sign_flip == pytest.approx(np.mean(np.abs(flips) >= 9))
    d = 1.5 / np.std([4, 3, 1, 1, 0, 0], ddof=1)
    assert found.effect_size == pytest.approx(d * (1 - 3 / 19))


@pytest.mark.parametrize(("n", "smallest"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (10, 2**-9)])
def test_the_sign_flip_reaches_its_smallest_p_where_all_signs_agree(n, smallest):
    found = evidence(np.linspace(0.1, 0.2, n))
    assert found.p_sign_flip == found.p_smallest == smallest == smallest_p(n)


def test_beyond_exact_counting_flips_are_drawn_and_agree():
    sample = np.random.default_rng(3).normal(0.4, 1, 17)
    drawn, t = evidence(sample).p_sign_flip, evidence(sample).p_t
    assert drawn == evidence(sample).p_sign_flip  # the same numbers give the same p
    assert drawn == pytest.approx(t, abs=0.03)
    assert evidence(np.linspace(0.1, 0.2, 17)).p_sign_flip >= smallest_p(17) == 2**-15


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_pairs_are_not_tested(n):
    found = evidence([0.5] * n)
    assert math.isnan(found.p_t)
    assert math.isnan(found.p_sign_flip)
    assert math.isnan(found.effect_size)


def test_equal_differences_have_a_p_value():
    assert (evidence([0.0] * 6).p_t, evidence([0.0] * 6).p_sign_flip) == (1, 1)
    assert (evidence([0.1] * 6).p_t, evidence([0.1] * 6).p_sign_flip) == (2**-5, 2**-5)


def test_holm_by_hand():
    # R: p.adjust(c(.01, .04, .03, .005), "holm") is .03 .06 .06 .02
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_holm_leaves_out_what_was_not_tested():
    found = holm([0.01, math.nan, 0.04])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.04)
    assert math.isnan(holm([math.nan])[0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_bounded_by_bonferroni_and_keeps_the_order(p):
    corrected = holm(p)
    assert all(one <= two <= min(1, one * len(p)) + 1e-12 for one, two in zip(p, corrected, strict=True))
    ordered = [corrected[place] for place in np.argsort(p, kind="stable")]
    assert ordered == sorted(ordered)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_probability_of_improvement_is_mann_whitneys_u(treated, control):
    u = stats.mannwhitneyu(treated, control, method="asymptotic").statistic
    assert probability_of_improvement(treated, control).mean == pytest.approx(u / (len(treated) * len(control)))


def test_probability_of_improvement_of_runs_that_are_missing():
    assert math.isnan(probability_of_improvement([], [1]).mean)
    assert probability_of_improvement([2, math.nan], [1, 2]).mean == 0.75  # one win, one tie


def test_welch_agrees_with_scipy():
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(0.62, 0.01, 6), rng.normal(0.60, 0.004, 5)
    found = welch_difference(t_interval(ours), theirs.mean(), theirs.std(ddof=1), 5)
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_published_figure_without_spread_counts_as_exact():
    ours = t_interval([0.60, 0.62, 0.64])
    found = welch_difference(ours, 0.61, math.nan, 1)
    assert (found.low, found.high) == pytest.approx((ours.low - 0.61, ours.high - 0.61))
    assert math.isnan(welch_difference(t_interval([0.6]), 0.61, 0.01, 5).low)


def test_false_positive_rates_of_the_paired_tests():
    # 2,000 simulated comparisons of six seeds without any difference.
    samples = np.random.default_rng(5).normal(0, 1, (2000, 6))
    found = [evidence(sample) for sample in samples]
    assert abs(np.mean([one.p_t < 0.05 for one in found]) - 0.05) < 0.015
    # The sign-flip test attains 2^-5, the largest of its levels below .05.
    assert abs(np.mean([one.p_sign_flip < 0.05 for one in found]) - 0.03125) < 0.012


def test_equal_but_for_rounding_is_equal():
    # R@1 of small test sets counts in whole queries: three equal gains are no proof.
    found = evidence(np.array([0.65, 0.75, 0.85]) - np.array([0.6, 0.7, 0.8]))
    assert (found.p_t, found.p_sign_flip) == (0.25, 0.25)
    assert math.isnan(found.effect_size)


def exact_p(counts):
    sums = np.array(list(product([-1, 1], repeat=len(counts)))) @ np.array(counts)
    return np.mean(np.abs(sums) >= abs(sum(counts)))


@given(st.integers(2, 70_000), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=8))
def test_a_sign_flip_of_counts_is_that_of_whole_numbers(queries, pairs):
    # Fractions such as 7/2120 - 3/2120 and 4/2120 differ in their last bits, so ties of their sums would break.
    differences = [one / queries - other / queries for one, other in pairs]
    counts = [one - other for one, other in pairs]
    assert evidence(differences, units=queries).p_sign_flip == exact_p(counts)
    assert evidence(differences).p_sign_flip == exact_p(counts)  # without knowing the queries, by the tolerance


def test_a_sign_flip_of_fractions_knows_ties_that_rounding_breaks():
    # In floats .3 is not .1 + .2: of the eight flips only the data and its mirror image would reach .6.
    assert evidence([0.1, 0.2, -0.3 + 0.1 - 0.1]).p_sign_flip == 1
    assert evidence([1 / 3, 1 / 3, 1 / 3, -1.0, 0.1]).p_sign_flip == exact_p([10, 10, 10, -30, 3])


def test_many_pairs_have_ties_too():
    counts = [1, -1] * 10 + [2]
    found = evidence(np.array(counts) / 2120, units=2120).p_sign_flip
    assert found == evidence(np.array(counts, dtype=float), units=1).p_sign_flip
    assert found == pytest.approx(1 - math.comb(20, 11) / 2**20, abs=0.005)  # all flips but those with the sum 0


def test_what_is_equal_but_for_rounding_is_half_a_win():
    assert probability_of_improvement([0.1 + 0.2], [0.3]).mean == 0.5
