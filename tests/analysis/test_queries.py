import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dmlbench.analysis import queries as module
from dmlbench.analysis.queries import (
    class_bootstrap,
    class_gains,
    confusions,
    measure_kept,
    query_evidence,
    query_pairs,
    query_record,
)
from dmlbench.errors import UserError
from dmlbench.results.frames import load_results
from tests.kept import angles, finish_again, keep
from tests.reporting.fake_results import make_cell, write_cell
from tests.typed import NONE

LABELS = (0, 0, 1, 1, 2)
# Of the first four queries the base hits 0 and 1; the method hits 1, 2 and 3; the fifth is alone in its class.
BASE, METHOD = angles(0, 5, 12, 90, 100), angles(0, 40, 100, 105, -20)


def write_pair(root, seed, *, base=BASE, method=METHOD, **changes):
    for name, vectors in (("ms", base), ("ms+psd", method)):
        keep(write_cell(root, make_cell(name, seed), **changes), vectors, LABELS)


def pairs_of(root):
    arranged = load_results(root)
    return query_pairs(arranged, measure_kept(arranged))


def hits(probability, rng):
    return rng.random(probability.shape) < np.clip(probability, 0, 1)


def test_bootstrap_by_hand():
    # A class of one query, won, and one of three, all equal: both draws of the first give 1, both of the second 0.
    estimate = class_bootstrap(np.array([1, 1, 0, 1], bool), np.array([0, 1, 0, 1], bool), np.array([5, 9, 9, 9]))
    assert (estimate.mean, estimate.low, estimate.high, estimate.n) == (0.25, 0.0, 1.0, 2)


def test_two_methods_that_hit_alike_differ_by_nothing():
    same = np.random.default_rng(0).random(100) < 0.6
    estimate = class_bootstrap(same, same, np.arange(100) // 5)
    assert (estimate.mean, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_one_class_has_no_interval():
    estimate = class_bootstrap(np.array([True, True]), np.array([False, True]), np.array([3, 3]))
    assert (estimate.mean, estimate.n) == (0.5, 1)
    assert np.isnan([estimate.low, estimate.high]).all()


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 50, 600)
    treated, control = hits(np.full(600, 0.7), rng), hits(np.full(600, 0.6), rng)
    sums, sizes = np.bincount(labels, treated.astype(float) - control), np.bincount(labels)

    def statistic(sums, sizes, axis):
        return sums.sum(axis) / sizes.sum(axis)

    expected = stats.bootstrap((sums, sizes), statistic, paired=True, method="percentile").confidence_interval
    found = class_bootstrap(treated, control, labels)
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03 * width)


def test_draws_are_the_same_in_every_block_and_for_every_method(monkeypatch):
    rng = np.random.default_rng(2)
    labels = np.arange(300) // 6
    treated, control = hits(np.full(300, 0.7), rng), hits(np.full(300, 0.6), rng)
    whole = class_bootstrap(treated, control, labels)
    monkeypatch.setattr(module, "COUNTS_AT_ONCE", 1000)
    assert class_bootstrap(treated, control, labels) == whole
    assert class_bootstrap(treated, control, labels, seed=1) != whole
    back = class_bootstrap(control, treated, labels)
    assert (back.mean, back.low, back.high) == pytest.approx((-whole.mean, -whole.high, -whole.low))


def coverage(rounds, *, by_class):
    """How often the interval holds the true difference of 0.05, where 100 classes of 12 differ in their effects."""
    rng, labels = np.random.default_rng(3), np.repeat(np.arange(100), 12)
    drawn = labels if by_class else np.arange(len(labels))
    covered = 0
    for place in range(rounds):
        effect = rng.normal(0.05, 0.25, 100)[labels]
        pair = hits(0.5 + effect / 2, rng), hits(0.5 - effect / 2, rng)
        estimate = class_bootstrap(*pair, drawn, resamples=500 if by_class else 100, seed=place)
        covered += estimate.low <= 0.05 <= estimate.high
    return covered / rounds


def test_coverage_with_classes_that_differ():
    assert abs(coverage(500, by_class=True) - 0.95) < 0.03
    assert coverage(60, by_class=False) < 0.85  # queries of a class are no independent draws


def test_evidence_by_hand(tmp_path):
    write_pair(tmp_path, 0)
    (row,) = query_evidence(pairs_of(tmp_path)).to_dict("records")
    place = {"protocol": "conv4-64", "overrides": NONE, "dataset": "glyphs", "method": "ms+psd", "base": "ms"}
    assert place.items() <= row.items()
    assert (row["modifier"], row["seed"]) == ("psd", 0)
    assert (row["classes"], row["queries"]) == (2, 4)
    assert (row["won"], row["lost"], row["both"], row["neither"]) == (2, 1, 1, 0)
    # Class 0 loses one of two, class 1 wins two of two.
    assert (row["difference"], row["low"], row["high"]) == (0.25, -0.5, 1.0)


def test_identical_embeddings_give_no_difference(tmp_path):
    write_pair(tmp_path, 0, method=BASE)
    pairs = pairs_of(tmp_path)
    (row,) = query_evidence(pairs).to_dict("records")
    assert (row["difference"], row["low"], row["high"], row["won"], row["lost"]) == (0, 0, 0, 0, 0)
    assert query_record(pairs).empty


def test_record_counts_seeds_and_orders_by_them(tmp_path):
    write_pair(tmp_path, 0)
    write_pair(tmp_path, 1)
    write_pair(tmp_path, 2, base=METHOD, method=BASE)
    record = query_record(pairs_of(tmp_path))
    found = record[["query", "label", "wins", "losses", "seeds"]].to_numpy().tolist()
    assert found == [[2, 1, 2, 1, 3], [3, 1, 2, 1, 3], [0, 0, 1, 2, 3]]
    assert record["method"].unique().tolist() == ["ms+psd"]


def test_only_cells_of_one_seed_that_kept_their_embeddings_are_paired(tmp_path):
    write_pair(tmp_path, 0)
    keep(write_cell(tmp_path, make_cell("ms", 1)), BASE, LABELS)
    write_cell(tmp_path, make_cell("ms+psd", 1))
    keep(write_cell(tmp_path, make_cell("ms+psd", 2)), METHOD, LABELS)
    assert [pair.row["seed"] for pair in pairs_of(tmp_path)] == [0]


def test_other_images_are_no_pair(tmp_path):
    write_pair(tmp_path, 0)
    folder = next((tmp_path / "conv4-64" / "glyphs" / "ms+psd").iterdir())
    data = json.loads((folder / "summary.json").read_text())["dataset"]
    # The same 16 digits, which is all that a table's `origin` holds.
    finish_again(folder, dataset=data | {"fingerprint": data["fingerprint"] + "0"})
    assert pairs_of(tmp_path) == []
    assert query_evidence([]).empty
    assert query_record([]).empty


def test_another_start_is_no_pair(tmp_path):
    write_pair(tmp_path, 0)
    folder = next((tmp_path / "conv4-64" / "glyphs" / "ms+psd").iterdir())
    finish_again(folder, initial_weights="another")
    assert pairs_of(tmp_path) == []


def test_seeds_with_other_images_are_left_out_of_the_record(tmp_path):
    write_pair(tmp_path, 0)
    data = {"name": "glyphs", "version": "1", "fingerprint": "other"}
    write_pair(tmp_path, 1, dataset=data)
    pairs = pairs_of(tmp_path)
    assert len(query_evidence(pairs)) == 2
    assert set(query_record(pairs)["seeds"]) == {1}


def test_one_dataset_with_two_labellings_is_an_error(tmp_path):
    keep(write_cell(tmp_path, make_cell("ms", 0)), BASE, LABELS)
    keep(write_cell(tmp_path, make_cell("ms+psd", 0)), METHOD, (0, 1, 1, 0, 2))
    with pytest.raises(UserError, match="with different labels"):
        pairs_of(tmp_path)


def test_gains_by_class_are_means_over_seeds_and_their_first_image(tmp_path):
    write_pair(tmp_path, 0)
    write_pair(tmp_path, 1, base=METHOD, method=METHOD)  # no difference: halves those of seed 0
    gains = class_gains(pairs_of(tmp_path))
    # Of class 0 one of two queries is lost, of class 1 both are won; the class of one image has no query.
    assert gains["label"].tolist() == [0, 1]
    assert gains["gain"].tolist() == [-0.25, 0.5]
    assert gains["image"].tolist() == [0, 2]
    assert gains["queries"].tolist() == [2, 2]
    assert gains["seeds"].tolist() == [2, 2]
    assert class_gains([]).empty


def counted(vectors, labels):
    """Pairs of classes by how many queries of either find the other first: counted one query at a time."""
    counts = Counter()
    for query, (vector, label) in enumerate(zip(vectors, labels, strict=True)):
        others = [place for place in range(len(labels)) if place != query]
        if not any(labels[place] == label for place in others):
            continue
        # A tie counts against the method: among equals one of another class comes first.
        best = max(others, key=lambda place: (round(float(vectors[place] @ vector), 9), labels[place] != label))
        if labels[best] != label:
            counts[tuple(sorted((label, labels[best])))] += 1
    return counts


def test_confusions_are_those_counted_one_by_one(tmp_path):
    rng, labels = np.random.default_rng(0), np.arange(60) % 9
    counts = {"ms": Counter(), "ms+psd": Counter()}
    for seed in range(3):
        cells = {name: rng.normal(size=(9, 4))[labels] + rng.normal(size=(60, 4)) for name in counts}
        for name, vectors in cells.items():
            unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            counts[name] += counted(unit.astype(float), labels.tolist())
            keep(write_cell(tmp_path, make_cell(name, seed)), unit, labels)
    found = confusions(pairs_of(tmp_path), each=1000)
    assert len(found) == len(counts["ms"] | counts["ms+psd"]) > 8
    for row in found.to_dict("records"):
        two = row["label"], row["other_label"]
        assert two[0] < two[1]
        assert row["confused"] == pytest.approx(counts["ms+psd"][two] / 3)
        assert row["confused_to"] == pytest.approx(counts["ms"][two] / 3)
        assert row["queries"] == sum(labels == two[0]) + sum(labels == two[1])
        assert row["seeds"] == 3
    most = found[["confused", "confused_to"]].max(axis=1)
    assert most.is_monotonic_decreasing
    first = confusions(pairs_of(tmp_path))
    assert first["label"].tolist() == found["label"].head(8).tolist()
    assert set(first["class_name"]) == {""}


def test_a_method_that_confuses_nothing_has_no_row_and_disturbs_no_other(tmp_path):
    perfect = angles(0, 1, 50, 51, 100)
    write_pair(tmp_path, 0, base=perfect, method=perfect)
    assert confusions(pairs_of(tmp_path)).empty
    keep(write_cell(tmp_path, make_cell("ms+obdsd", 0)), METHOD, LABELS)
    (row,) = confusions(pairs_of(tmp_path)).to_dict("records")
    # The first query, alone among the missed, has the image of class 2 at -20 degrees before its own at 40.
    assert (row["method"], row["label"], row["other_label"]) == ("ms+obdsd", 0, 2)
    assert (row["confused"], row["confused_to"], row["queries"]) == (1, 0, 2)
    assert confusions([]).empty


def test_seeds_that_test_other_classes_are_not_averaged(tmp_path):
    write_pair(tmp_path, 0)
    write_pair(tmp_path, 1, base=METHOD, method=METHOD)
    results = load_results(tmp_path)
    kept = {folder: replace(own, class_names=tuple("abc")) for folder, own in measure_kept(results).items()}
    of_second = set(results.loc[results["seed"] == 1, "folder"])
    moved = {
        folder: replace(own, class_names=tuple("dea")) if folder in of_second else own for folder, own in kept.items()
    }
    pairs = query_pairs(results, moved)
    assert len(query_evidence(pairs)) == 2
    for found in (class_gains(pairs), query_record(pairs), confusions(pairs)):
        assert set(found["seeds"]) == {1}
    assert set(query_record(query_pairs(results, kept))["seeds"]) == {2}
