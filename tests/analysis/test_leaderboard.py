"""Ranks that the comparisons of all pairs leave open."""

import numpy as np
import pandas as pd
import pytest

from dmlbench.analysis.leaderboard import leaderboard, ranks
from tests.analysis.fake_values import values

NOISE = np.array([0.0, 0.001, -0.001, 0.0005, -0.0005, 0.0])


def table(*means):
    """Six seeds of methods whose noise is not shared."""
    return np.stack([mean + np.roll(NOISE, place) for place, mean in enumerate(means)], axis=1)


def test_methods_far_apart_have_their_rank():
    best, worst = ranks(table(0.9, 0.7, 0.5))
    assert best.tolist() == worst.tolist() == [1, 2, 3]


def test_methods_that_are_not_distinguished_share_ranks():
    best, worst = ranks(table(0.9, 0.7, 0.7, 0.5))
    assert best.tolist() == [1, 2, 2, 4]
    assert worst.tolist() == [1, 3, 3, 4]


def test_two_seeds_leave_every_rank_open():
    best, worst = ranks(table(0.9, 0.5)[:2])
    assert (best.tolist(), worst.tolist()) == ([1, 1], [2, 2])


def test_equal_methods_are_not_distinguished_and_constant_differences_are():
    best, worst = ranks(np.array([[0.5, 0.5, 0.6]] * 9))
    assert (best.tolist(), worst.tolist()) == ([2, 2, 1], [3, 3, 1])


@pytest.mark.parametrize("other", [0.069, 0.07])
def test_equal_differences_of_few_seeds_say_no_more_than_their_signs(other):
    """Without spread a t-test would be infinitely sure; rounding alone is no difference."""
    table = np.array([[0.07, other], [0.071, other + 0.001], [0.073, other + 0.003]])
    assert [own.tolist() for own in ranks(table)] == [[1, 1], [2, 2]]
    assert [own.tolist() for own in ranks(np.array([[0.1 + 0.2, 0.3]] * 12))] == [[1, 1], [2, 2]]


def test_runs_of_another_origin_form_no_pair():
    frame = pd.concat([values({"ms": [0.9] * 4}), values({"triplet": [0.5] * 4}, origin="cuda/x")])
    found = leaderboard(frame)
    assert found["method"].tolist() == ["ms", "triplet"]
    assert found[["best_rank", "worst_rank"]].to_numpy().tolist() == [[1, 2], [1, 2]]


def test_the_best_comes_first():
    found = leaderboard(values({"ms": [0.6, 0.61, 0.62], "triplet": [0.7, 0.71, 0.72]}))
    assert found["method"].tolist() == ["triplet", "ms"]
    assert found["mean"].tolist() == pytest.approx([0.71, 0.61])


def test_true_ranks_lie_within_in_nineteen_of_twenty_studies():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        best, worst = ranks(rng.normal(0, 0.013, (6, 6)) + np.array([0.03, 0.02, 0.02, 0.01, 0.0, 0.0]))
        # With ties a method may have any of the tied ranks: the first of them and the last must not be excluded both.
        possible = [(1, 1), (2, 3), (2, 3), (4, 4), (5, 6), (5, 6)]
        inside += all(b <= high and w >= low for b, w, (low, high) in zip(best, worst, possible, strict=True))
    assert inside / 400 >= 0.93
