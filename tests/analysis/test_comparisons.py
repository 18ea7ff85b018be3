import math
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmlbench.analysis.comparisons import comparisons, other_kinds, other_origins, pooled, primary, seed_pairs
from dmlbench.analysis.estimates import seed_values
from dmlbench.analysis.groups import GROUP, Against
from dmlbench.analysis.statistics import benjamini_hochberg, verdict
from dmlbench.reporting.naming import named
from dmlbench.results.frames import load_results
from tests.analysis.fake_values import values
from tests.typed import NONE, settings


def given(frame):
    return seed_pairs(frame), frame


def row(frame, method, to):
    (found,) = frame[(frame["method"] == method) & (frame["to_method"] == to)].to_dict("records")
    return found


RUNS = {
    "ms": [0.60, 0.62, 0.61, 0.63],
    "ms+psd": [0.61, 0.625, 0.63, 0.635],
    "ms+obdsd": [0.64, 0.65, 0.66, 0.66],
    "triplet": [0.5, 0.5, 0.5, 0.5],
}


def test_methods_are_compared_with_their_base_and_modifiers_with_each_other():
    found = comparisons(*given(values(RUNS)))
    pairs = set(found[["method", "to_method"]].itertuples(index=False, name=None))
    assert pairs == {("ms+psd", "ms"), ("ms+obdsd", "ms"), ("ms+obdsd", "ms+psd"), ("ms", "triplet")}
    references = primary(found).set_index("method")["to_method"].to_dict()
    assert references == {"ms+psd": "ms", "ms+obdsd": "ms", "ms": "triplet"}


def test_all_methods_are_compared_with_one_that_is_named():
    frame = values(RUNS)
    found = comparisons(seed_pairs(frame, Against("ms+psd")), frame)
    assert set(found["method"]) == {"ms", "ms+obdsd", "triplet"}
    assert set(found["to_method"]) == {"ms+psd"}
    assert found["primary"].all()
    assert row(found, "ms", "ms+psd")["mean"] == pytest.approx(-row(comparisons(*given(frame)), "ms+psd", "ms")["mean"])


def test_the_verdict_follows_from_the_corrected_p_values():
    found = comparisons(*given(values(RUNS)))
    expected = [verdict(*own) for own in found[["n", "mean", "p_bh", "p_equivalent_bh"]].itertuples(index=False)]
    assert list(found["verdict"]) == expected
    assert row(found, "ms+obdsd", "ms")["verdict"] == "better"
    assert row(found, "ms", "triplet")["verdict"] == "better"


def test_simultaneous_intervals_are_bonferronis():
    found = comparisons(*given(values(RUNS)))
    one = row(found, "ms+psd", "ms")
    half = stats.t.ppf(1 - 0.05 / (2 * 4), 3) * one["std"] / 2
    assert (one["all_low"], one["all_high"]) == pytest.approx((one["mean"] - half, one["mean"] + half))


def test_a_comparison_by_hand():
    found = comparisons(*given(values(RUNS)))
    one = row(found, "ms+obdsd", "ms")
    differences = np.array(RUNS["ms+obdsd"]) - RUNS["ms"]
    expected = stats.ttest_rel(RUNS["ms+obdsd"], RUNS["ms"])
    assert one["mean"] == pytest.approx(differences.mean())
    assert one["p_t"] == pytest.approx(expected.pvalue)
    assert (one["low"], one["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (one["n"], one["p_sign_flip"], one["p_smallest"]) == (4, 0.125, 0.125)
    assert one["probability_of_improvement"] == 1
    assert one["std"] == pytest.approx(differences.std(ddof=1))


def test_the_family_is_all_that_stands_in_one_table():
    found = comparisons(*given(values(RUNS)))
    assert set(found["family"]) == {4}
    assert list(found["p_bh"]) == pytest.approx(benjamini_hochberg(list(found["p_t"])))


def test_groups_and_metrics_are_families_of_their_own():
    both = pd.concat([values(RUNS), values(RUNS, dataset="e"), values(RUNS).assign(metric="map_at_r")])
    found = comparisons(*given(both))
    assert set(found["family"]) == {4}
    assert len(found) == 12


def test_two_pairs_are_not_tested_and_do_not_count_in_the_family():
    runs = {"ms": [0.6, 0.61, 0.63], "ms+psd": [0.62, 0.64, None], "ms+obdsd": [0.61, 0.64, 0.66]}
    found = comparisons(*given(values(runs)))
    few = row(found, "ms+psd", "ms")
    assert few["n"] == 2
    assert math.isnan(few["p_t"])
    assert math.isnan(few["p_bh"])
    assert row(found, "ms+obdsd", "ms")["family"] == 1


def test_runs_of_another_origin_form_no_pair():
    mixed = pd.concat([values({"ms": RUNS["ms"]}), values({"ms+psd": RUNS["ms+psd"]}, origin="cuda/x")])
    assert seed_pairs(mixed).empty
    assert other_origins(mixed)[["method", "size"]].to_numpy().tolist() == [["ms+psd", 4]]
    assert comparisons(*given(mixed)).empty


def test_pairs_of_two_kinds_of_processor_are_counted_and_kept():
    runs = {"ms": [0.6, 0.61, 0.63, 0.62], "ms+psd": [0.62, 0.64, 0.65, 0.66], "ms+obdsd": [0.61, 0.64, 0.66, 0.6]}
    mixed = values(runs)
    mixed.loc[(mixed["method"] == "ms+psd") & (mixed["seed"] < 2), "kind"] = "another"
    assert other_kinds(mixed)[["method", "size"]].to_numpy().tolist() == [["ms+psd", 2]]
    assert row(comparisons(*given(mixed)), "ms+psd", "ms")["n"] == 4
    assert other_kinds(values(runs)).empty


def test_pooling_gives_every_dataset_the_same_weight():
    small = values({"ms": [0.6, 0.6, 0.6], "ms+psd": [0.62, 0.63, 0.64]}, dataset="a")
    large = values({"ms": [0.8, 0.8, 0.8, 0.8], "ms+psd": [0.79, 0.80, 0.80, 0.9]}, dataset="b")
    one = row(pooled(*given(pd.concat([small, large]))), "ms+psd", "ms")
    per_seed = np.array([(0.02 - 0.01) / 2, 0.015, 0.02])  # seed 3 has no pair on a
    assert (one["n"], one["datasets"]) == (3, 2)
    assert one["mean"] == pytest.approx(per_seed.mean())
    assert one["p_t"] == pytest.approx(stats.ttest_1samp(per_seed, 0).pvalue)
    # On a it is 1. On b .79 beats none of four, .80 ties with four (twice), .9 beats four.
    assert one["probability_of_improvement"] == pytest.approx((1 + (0 + 2 * 4 * 0.5 + 4) / 16) / 2)


def test_pooling_needs_two_datasets():
    assert pooled(*given(values(RUNS))).empty


def test_pooling_joins_marks_that_differ_by_dataset():
    first = values({"ms": [0.6] * 3, "ms+psd": [0.61, 0.62, 0.63]}, dataset="a", marks="untuned")
    second = values({"ms": [0.6] * 3, "ms+psd": [0.61, 0.62, 0.63]}, dataset="b")
    one = row(pooled(*given(pd.concat([first, second]))), "ms+psd", "ms")
    assert (one["marks"], one["datasets"]) == ("untuned", 2)


def test_nothing_at_all():
    nothing = given(values({"ms": [0.6]}))
    assert comparisons(*nothing).empty
    assert pooled(*nothing).empty


def test_the_probability_of_improvement_is_of_all_runs():
    runs = {"ms": [0.6, 0.7, 0.8, 0.9], "ms+psd": [0.65, 0.75, 0.85, None]}
    found = row(comparisons(*given(values(runs))), "ms+psd", "ms")
    assert found["n"] == 3
    assert found["probability_of_improvement"] == 0.5  # of twelve pairs 1 + 2 + 3 are won


def test_settings_of_the_protocol_are_not_pooled():
    runs = {"ms": [0.6, 0.61, 0.62], "ms+psd": [0.61, 0.63, 0.64]}
    frames = [
        values(runs, dataset="a"),
        values(runs, dataset="b"),
        values(runs, dataset="c").assign(overrides=settings("x=1")),
    ]
    found = pooled(*given(pd.concat(frames)))
    assert found[["overrides", "datasets"]].to_numpy().tolist() == [[NONE, 2]]


def test_only_seeds_of_all_datasets_count():
    frames = [
        values({"ms": [0.6] * own, "ms+psd": [0.61, 0.63, 0.64][:own]}, dataset=name)
        for name, own in (("a", 3), ("b", 3), ("c", 2))
    ]
    one = row(pooled(*given(pd.concat(frames))), "ms+psd", "ms")
    assert (one["datasets"], one["n"]) == (3, 2)


def test_datasets_without_a_common_seed_are_a_row_without_numbers():
    runs = {"ms": [0.6, 0.6], "ms+psd": [0.61, 0.62]}
    other = values(runs, dataset="b")
    one = row(
        pooled(*given(pd.concat([values(runs, dataset="a"), other.assign(seed=other["seed"] + 5)]))), "ms+psd", "ms"
    )
    assert one["n"] == 0
    assert math.isnan(one["mean"])


def test_marks_stay_with_their_protocol_and_stand_once():
    runs = {"ms": [0.6] * 3, "ms+psd": [0.61, 0.62, 0.63]}
    frames = [values(runs, dataset=name, marks=marks) for name, marks in (("a", "U"), ("b", "U; P"))]
    frames += [values(runs, dataset=name, marks="other").assign(overrides=settings("x=1")) for name in "ab"]
    found = pooled(*given(pd.concat(frames)))
    assert found.set_index("overrides")["marks"].to_dict() == {NONE: "U; P", settings("x=1"): "other"}


def test_pairs_are_matched_by_seed_not_by_order():
    frame = values({"ms": [0.5, 0.6, 0.4], "ms+psd": [0.9, 0.8, 0.7]}).sample(frac=1, random_state=3)
    found = row(comparisons(*given(frame)), "ms+psd", "ms")
    expected = stats.ttest_rel([0.9, 0.8, 0.7], [0.5, 0.6, 0.4])
    assert found["p_t"] == pytest.approx(expected.pvalue)
    assert found["mean"] == pytest.approx(0.3)


def test_pairing_removes_what_seeds_share():
    shared = np.random.default_rng(2).normal(0, 0.1, 6)
    found = row(comparisons(*given(values({"ms": 0.60 + shared, "ms+psd": 0.61 + shared}))), "ms+psd", "ms")
    assert found["high"] - found["low"] < 1e-9
    assert found["mean"] == pytest.approx(0.01)


def test_the_committed_results_have_the_p_values_of_their_counts():
    runs = seed_values(load_results(Path(__file__).parents[2] / "results" / "reference"))
    pairs = named(seed_pairs(runs))
    found = named(comparisons(pairs, runs))
    place = [*GROUP, "selection", "metric", "name", "to_name"]
    p_values = found.set_index(place)["p_sign_flip"]
    row = ("conv4-64", NONE, "omniglot-small", "last", "recall_at_1", "proxyanchor+psd", "proxyanchor")
    assert p_values[row] == 404 / 1024
    recalls = pairs[pairs["metric"].str.startswith("recall_at_")]
    for key, part in recalls.groupby(place, sort=False):
        counts = np.rint(part["value"] * part["units"]) - np.rint(part["value_to"] * part["units"])
        sums = np.array(list(product([-1, 1], repeat=len(counts)))) @ counts.to_numpy()
        assert p_values[key] == np.mean(np.abs(sums) >= abs(counts.sum())) or len(counts) < 3


def test_counts_of_all_datasets_are_pooled_as_counts():
    # +3, -1 and -2 of 7 on both: no effect at all, though thirds and sevenths do not add up to 0 in floats.
    both = pd.concat(
        [
            values({"ms": [2 / q, 5 / q, 6 / q], "ms+psd": [5 / q, 4 / q, 4 / q]}, dataset=str(q), units=q)
            for q in (7, 9)
        ]
    )
    assert row(pooled(*given(both)), "ms+psd", "ms")["p_sign_flip"] == 1
