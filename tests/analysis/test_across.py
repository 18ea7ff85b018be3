import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmlbench.analysis.comparisons import (
    average_ranks,
    critical_difference,
    friedman_p,
    interquartile_mean,
    over_datasets,
)
from dmlbench.reporting.naming import named
from tests.analysis.fake_values import values


def by_key(frame):
    return frame.rename(columns={"method": "key"})


def test_interquartile_mean_by_hand():
    # Of 1..8 the lowest and highest two go: 3 4 5 6.
    mean, low, high = interquartile_mean([np.array([8.0, 2, 6, 4]), np.array([1.0, 3, 5, 7])])
    assert mean == 4.5
    assert low < 4.5 < high


def test_the_bootstrap_stays_within_each_dataset():
    # Resampled over all runs the share of each dataset would vary, and with it the mean; within each it cannot.
    low, high = interquartile_mean([np.array([0.2, 0.2, 0.2, 0.2 + 1e-9]), np.array([0.9, 0.9, 0.9, 0.9])])[1:]
    assert high - low < 1e-6
    assert (low + high) / 2 == pytest.approx(0.55)


def test_a_single_run_has_no_interval():
    assert math.isnan(interquartile_mean([np.array([0.5]), np.array([0.6, 0.7])])[1])


def test_equal_runs_have_an_interval_of_no_width():
    assert interquartile_mean([np.full(3, 0.5)] * 2) == (0.5, 0.5, 0.5)


def test_coverage_of_the_interquartile_mean_with_many_runs():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        _, low, high = interquartile_mean([rng.normal(0.6, 0.01, 30), rng.normal(0.6, 0.01, 30)])
        covered += low <= 0.6 <= high
    assert abs(covered / 200 - 0.95) < 0.04


def test_average_ranks_share_ties():
    frame = pd.concat([
        values({"a": [0.5], "b": [0.5], "c": [0.1]}, dataset="x"),
        values({"a": [0.9], "b": [0.5], "c": [0.7]}, dataset="y"),
    ])  # fmt: skip
    assert average_ranks(by_key(frame)).to_dict() == {"a": 1.25, "b": 2.25, "c": 2.5}


def test_critical_difference_of_demsars_table():
    # Table 5(a): q.05 is 1.960 for 2 methods, 2.728 for 5, 3.164 for 10; section 3.2.4: CD 1.25 for 4 and 14 datasets.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.01)
    assert critical_difference(5, 6) == pytest.approx(2.728 * math.sqrt(5 * 6 / 36), abs=2e-3)
    assert critical_difference(2, 6) == pytest.approx(1.960 * math.sqrt(6 / 36), abs=2e-3)


def test_methods_without_a_dataset_are_left_out():
    frame = pd.concat([
        values({"ms": [0.6, 0.61], "triplet": [0.5, 0.52], "margin": [0.7, 0.7]}, dataset="x"),
        values({"ms": [0.8, 0.82], "triplet": [0.81, 0.85]}, dataset="y"),
    ])  # fmt: skip
    found = over_datasets(frame).set_index("method")
    assert set(found.index) == {"ms", "triplet"}
    assert found.loc["ms", ["datasets", "n"]].tolist() == [2, 4]
    assert found.loc["ms", "rank"] == 1.5


def test_one_dataset_has_no_overview():
    assert over_datasets(values({"ms": [0.6], "triplet": [0.5]})).empty


def test_methods_are_compared_on_the_seeds_they_share():
    # The second lacks runs of the easy dataset; where both ran they are alike.
    frame = pd.concat([
        values({"ms": [0.9] * 10, "triplet": [0.9] + [None] * 9}, dataset="easy"),
        values({"ms": [0.3] * 10, "triplet": [0.3] * 10}, dataset="hard"),
    ])  # fmt: skip
    found = over_datasets(frame)
    assert found["iqm"][0] == found["iqm"][1]
    assert found["n"].tolist() == [11, 11]
    assert found["seeds"].tolist() == [1, 1]


def test_a_method_with_few_seeds_takes_none_from_the_others():
    full = {"ms": [0.9, 0.8, 0.7], "triplet": [0.6, 0.7, 0.8]}
    frame = pd.concat(
        [values(full | {"margin": [0.5]}, dataset="x"), values(full | {"margin": [0.5] * 3}, dataset="y")]
    )
    found = over_datasets(frame)
    assert found["method"].tolist() == ["ms", "triplet"]
    assert set(found["seeds"]) == {3}


def test_a_dataset_of_one_method_gives_way():
    frame = pd.concat([
        values({"ms": [0.6, 0.61], "triplet": [0.5, 0.52]}, dataset="x"),
        values({"ms": [0.8, 0.82], "triplet": [0.81, 0.85]}, dataset="y"),
        values({"margin": [0.7, 0.7]}, dataset="z"),
    ])  # fmt: skip
    found = over_datasets(frame)
    assert found["method"].tolist() == ["ms", "triplet"]
    assert set(found["over"]) == {"x, y"}


def test_single_networks_of_several_have_no_rank():
    networks = {f"ms+dm2{readout}": [0.6, 0.7] for readout in ("", "{ensemble}", "{member 1}", "{member 2}")}
    found = over_datasets(pd.concat([values({"ms": [0.5, 0.6]} | networks, dataset=name) for name in "xy"]))
    assert named(found)["name"].tolist() == ["ms", "ms+dm2", "ms+dm2{ensemble}"]
    assert found["rank"].tolist() == [3, 1.5, 1.5]


def test_marks_of_all_datasets_are_kept():
    runs = {"ms": [0.6], "ms+psd": [0.7]}
    found = over_datasets(pd.concat([values(runs, dataset="a"), values(runs, dataset="b", marks="untuned")]))
    assert found.set_index("method")["marks"].to_dict() == {"ms": "", "ms+psd": "untuned"}


def test_friedman_comes_before_nemenyi():
    same = {dataset: {"a": [0.1], "b": [0.2], "c": [0.3]} for dataset in "uvwxyz"}
    frame = pd.concat([values(runs, dataset=name) for name, runs in same.items()])
    assert friedman_p(by_key(frame)) == pytest.approx(stats.chi2.sf(12, 2))  # all six agree: chi2 is N (k - 1)
    assert friedman_p(by_key(frame.assign(value=0.5))) == 1
    assert math.isnan(friedman_p(by_key(frame[frame["method"] != "c"])))


def test_means_that_differ_by_rounding_share_their_rank():
    # Six runs of the same counts in another order: their means differ in the last bit.
    runs = {"ms": [0.1, 0.2, 0.3], "ms+psd": [0.3, 0.2, 0.1], "triplet": [0.2, 0.2, 0.2]}
    assert len({np.mean(own) for own in runs.values()}) > 1
    both = pd.concat([values(runs, dataset=name) for name in "ab"])
    assert list(average_ranks(by_key(both))) == [2, 2, 2]
    assert friedman_p(by_key(both)) == 1
