import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmlbench.analysis import estimates
from dmlbench.analysis.costs import overhead
from dmlbench.analysis.groups import Group, groups, in_order
from dmlbench.analysis.published import reproduction
from dmlbench.reporting import tables
from dmlbench.reporting.naming import named, percent
from dmlbench.reporting.sources import unfinished
from dmlbench.reporting.tables.summary import coverage_table, settings_tables
from dmlbench.reporting.tables.table import estimate_entry, mark_signs, signed
from dmlbench.results.frames import load_results
from dmlbench.results.store import Roots
from tests.reporting.fake_results import history, make_cell, write_cell
from tests.reporting.frames import GLYPHS, accuracy, differences, optimism, pick
from tests.typed import NONE, methods


def raw(arranged, method, selection="last", metric="recall_at_1"):
    rows = pick(GLYPHS.of(arranged), method=method, selection=selection)
    return rows.set_index("seed")[metric].sort_index()


def test_accuracy_is_the_mean_and_t_interval_over_seeds(arranged, values):
    (row,) = pick(GLYPHS.of(accuracy(values)), method="ms", selection="last", metric="recall_at_1").to_dict("records")
    sample = raw(arranged, "ms").to_numpy()
    half = stats.t.ppf(0.975, 4) * np.std(sample, ddof=1) / np.sqrt(5)
    assert row["mean"] == pytest.approx(sample.mean())
    assert (row["low"], row["high"]) == pytest.approx((sample.mean() - half, sample.mean() + half))
    assert row["n"] == 5


def test_the_untrained_network_counts_once_per_seed(arranged, values):
    (row,) = pick(GLYPHS.of(accuracy(values)), method="untrained", metric="recall_at_1").to_dict("records")
    assert row["n"] == 5
    assert row["mean"] == pytest.approx(raw(arranged, "ms", "untrained").mean())


def test_differences_are_paired_by_seed(arranged, values):
    rows = pick(GLYPHS.of(differences(values)), method="ms+psd", selection="best_test", metric="map_at_r")
    (row,) = rows.to_dict("records")
    own, base = (raw(arranged, name, "best_test", "map_at_r") for name in ("ms+psd", "ms"))
    expected = stats.ttest_rel(own, base).confidence_interval(0.95)
    assert row["mean"] == pytest.approx((own - base).mean())
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_selections_and_variants_are_never_mixed(arranged, values):
    found = accuracy(values)
    assert len(groups(found)) == 3
    assert set(pick(found, overrides=NONE)["selection"]) == {"untrained", "last", "best_test"}
    assert set(found[found["overrides"] != NONE]["selection"]) == {"untrained", "last", "validation", "best_test"}
    key = ["protocol", "overrides", "dataset", "selection", "method", "metric"]
    assert not found.duplicated(key).any()


def test_geometry_stands_in_the_csv_alone(values):
    found = accuracy(values)
    assert "spectral_decay" in set(found["metric"])
    assert "spectral decay" not in tables.accuracy_table(GLYPHS, "last", found).columns


def test_accuracy_table_starts_with_the_untrained_network_and_shows_marks(values):
    table = tables.accuracy_table(GLYPHS, "last", accuracy(values))
    assert table.title == "Accuracy of conv4-64 on glyphs; last epoch"
    assert [row[0].text for row in table.rows] == [
        "untrained",
        "ms",
        "ms+psd",
        "ms+obdsd",
        "proxyanchor",
        "proxyanchor+psd",
    ]
    assert table.columns == (
        "Method",
        "Seeds",
        "R@1",
        "R@2",
        "R@4",
        "R@8",
        "MAP@R",
        "R-precision",
        "NMI",
        "AMI",
        "Marks",
    )
    assert table.rows[-1][-1].text == "untuned: nothing published; unpublished composition"


def test_the_best_test_epoch_is_named_as_what_it_is(values):
    found = accuracy(values)
    table = tables.accuracy_table(GLYPHS, "best_test", found)
    assert "as published: chosen on the test classes" in table.title
    assert "as published" in tables.difference_table(GLYPHS, "best_test", differences(values), found).title


def test_one_seed_has_no_interval_and_a_warning(values):
    group = Group("conv4-64", NONE, "omniglot-small")
    table = tables.accuracy_table(group, "last", accuracy(values))
    alone = table.rows[-1]
    assert [entry.interval for entry in alone] == [""] * len(alone)
    assert table.notes[-1] == "Fewer than 3 seeds, so nothing can be concluded from: proxyanchor+psd (1)."
    assert not any(note.startswith("Fewer") for note in tables.accuracy_table(GLYPHS, "last", accuracy(values)).notes)


def test_a_metric_of_fewer_seeds_says_so():
    entry = estimate_entry({"mean": 0.5, "low": 0.4, "high": 0.6, "n": 2}, percent, seeds=3)
    assert (entry.text, entry.interval) == ("50.00", "[40.00, 60.00] n = 2")


def test_a_choice_of_the_epoch_or_a_pair_that_some_seeds_lack_says_so(tmp_path):
    for seed in range(4):
        rows = history(make_cell("ms", seed, validation=0.2))
        if not seed:
            rows = [{key: value for key, value in row.items() if not key.startswith("validation/")} for row in rows]
        write_cell(tmp_path, make_cell("ms", seed, validation=0.2), rows=rows)
        if seed > 1:
            write_cell(tmp_path, make_cell("ms+psd", seed, validation=0.2))
    write_cell(tmp_path, make_cell("ms+psd", 7, validation=0.2))
    found = estimates.seed_values(load_results(tmp_path))
    table = tables.selection_table(GLYPHS, "recall_at_1", accuracy(found), differences(found), optimism(found))
    base, modified = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (base["Seeds"].text, modified["Seeds"].text) == ("4", "3")
    assert "n =" not in base["Last epoch"].interval
    assert base["Validation"].interval.endswith("] n = 3")
    assert modified["Gain, last epoch"].interval.endswith("] n = 2")


def test_more_marks_than_letters_have_two():
    signs = mark_signs(f"mark {place}" for place in range(800))
    letters = list(signs.values())
    assert letters[:2] + letters[25:28] + letters[701:703] == ["a", "b", "z", "aa", "ab", "zz", "aaa"]
    assert len(set(letters)) == 800
    assert signed("mark 0; mark 27", signs) == "a,ab"


def test_a_method_without_its_base_is_named(tmp_path):
    write_cell(tmp_path, make_cell("ms+psd", 0))
    write_cell(tmp_path, make_cell("ms", 1))
    found = estimates.seed_values(load_results(tmp_path))
    table = tables.difference_table(GLYPHS, "last", differences(found), accuracy(found))
    assert table.rows == ()
    assert table.notes[-1] == "No result of the reference with the same seed among these, so no difference for: ms+psd."


def test_overhead_table_says_what_it_is_and_what_it_left_out(tmp_path):
    for name, machine in ("ms", "m1"), ("ms+psd", "m2"):
        write_cell(tmp_path, make_cell(name, 0), machine=machine)
    table = tables.overhead_table(GLYPHS, named(overhead(load_results(tmp_path))))
    assert [entry.text for entry in table.rows[0]] == ["ms+psd", "ms", "–", "–", "–", "0", "untuned: nothing published"]
    assert any("not an isolated, interleaved measurement" in note for note in table.notes)
    assert any("or one ran beside another run's cells: ms+psd (1)" in note for note in table.notes)


def test_methods_stand_in_one_order():
    names = ["zeta+psd", "untrained", "ms+obdsd", "ms+psd", "ms", "contrastive", "ms{alpha=3}"]
    expected = ["untrained", "contrastive", "ms", "ms+psd", "ms+obdsd", "ms{alpha=3}", "zeta+psd"]
    assert list(named(in_order(methods(*names)))["name"]) == expected


def test_selections_stand_side_by_side(values):
    table = tables.selection_table(GLYPHS, "recall_at_1", accuracy(values), differences(values), optimism(values))
    assert table.columns == (
        "Method", "Seeds", "Last epoch", "Best test epoch", "Best test − last", "Gain, last epoch",
        "Gain, best test epoch", "Marks",
    )  # fmt: skip
    (ms, psd) = table.rows[:2]
    assert ms[5].text == ""  # a base gains nothing over itself
    assert psd[4].value >= 0
    assert psd[3].value - psd[2].value == pytest.approx(psd[4].value)
    gains = pick(GLYPHS.of(differences(values)), method="ms+psd", metric="recall_at_1").set_index("selection")["mean"]
    assert [entry.value for entry in psd[5:7]] == pytest.approx([gains["last"], gains["best_test"]])


def test_published_figures_stand_beside_ours(values):
    ours = GLYPHS.of(values).assign(dataset="cub", protocol="resnet50-128")
    table = tables.reproduction_table(named(reproduction(accuracy(ours))))
    row = next(row for row in table.rows if (row[0].text, row[2].text) == ("ms", "R@1"))
    assert (row[4].text, row[4].spread) == ("62.80", "± 0.70")
    assert row[6].interval.startswith("[")
    assert row[8].interval.startswith("[")
    assert row[9].text == ""
    other = tables.reproduction_table(named(reproduction(accuracy(ours.assign(protocol="conv4-64")))))
    assert other.rows[0][8].text == "–"
    assert other.rows[0][9].text == "protocol resnet50-128, ours conv4-64"


def test_the_matrix_shows_what_is_missing(results, arranged):
    table = coverage_table(named(arranged), named(unfinished(Roots.of(results))))
    rows = {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}
    assert table.columns[1:] == (
        "conv4-64 on glyphs", "conv4-64 on omniglot-small",
        "conv4-64 on glyphs, training.epochs=6, validation.classes=0.2",
    )  # fmt: skip
    assert rows["ms"] == ["5", "5", "3"]
    assert rows["proxyanchor+psd"] == ["5", "1", "–"]
    assert rows["ms+dm2"] == ["0/2 (1 f)", "–", "–"]


def test_values_that_datasets_share_stand_once():
    base = {"protocol": "p", "overrides": NONE, "name": "ms+psd", "part": "psd", "implementation": "official"}
    base |= {"parameter": "lambda", "source": "code", "published": True}
    rows = [base | {"dataset": d, "value": v} for d, v in (("cub", 1000), ("cars", 75), ("sop", 75))]
    rows += [base | {"dataset": d, "value": 1, "parameter": "tau"} for d in ("cub", "cars", "sop")]
    (table,) = settings_tables(pd.DataFrame(rows))
    assert [[entry.text for entry in row[:4]] for row in table.rows] == [
        ["lambda", "psd", "1000", "cub"],
        ["lambda", "psd", "75", "cars, sop"],
        ["tau", "psd", "1", "all"],
    ]
    assert table.notes == ("psd: official.",)
