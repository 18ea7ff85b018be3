import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dmlbench.analysis.statistics import log_ratio_interval, paired_difference, t_interval

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


@pytest.mark.parametrize("n", [2, 5])
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


def test_paired_difference_matches_seeds_by_name_not_by_order():
    treated = series([0.7, 0.9, 0.8], [3, 1, 2])
    control = series([0.5, 0.6, 0.4], [1, 2, 3])
    estimate = paired_difference(treated, control)
    assert estimate.n == 3
    assert estimate.mean == pytest.approx(0.3)
    expected = stats.ttest_rel([0.9, 0.8, 0.7], [0.5, 0.6, 0.4]).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_paired_difference_leaves_out_seeds_of_one_side():
    assert paired_difference(series([1, 2], [0, 7]), series([1, 1], [0, 8])).n == 1
    assert paired_difference(series([1], [0]), series([1], [1])).n == 0


def test_pairing_removes_what_seeds_share():
    shared = np.random.default_rng(2).normal(0, 0.1, 6)
    estimate = paired_difference(series(0.61 + shared), series(0.60 + shared))
    assert estimate.high - estimate.low < 1e-9
    assert estimate.mean == pytest.approx(0.01)


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
