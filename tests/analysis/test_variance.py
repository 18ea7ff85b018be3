"""Sources of variance: by the seeds of `run --vary`, by test classes, by studies of tuning."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmlbench.analysis.comparisons import comparisons, seed_pairs
from dmlbench.analysis.estimates import seed_values
from dmlbench.analysis.groups import GROUP, METHOD
from dmlbench.analysis.queries import measure_kept
from dmlbench.analysis.variance import over_test_classes, split_source, variances
from dmlbench.reporting.page import render
from dmlbench.results.frames import load_results
from dmlbench.runner.matrix import Request, plan
from dmlbench.specs.overrides import Settings
from tests.kept import angles, keep
from tests.reporting.fake_results import make_cell, write_cell

LABELS = (0, 0, 1, 1, 2)
NO_STUDIES = pd.DataFrame(columns=[*GROUP, *METHOD, "study", "test"])


@pytest.fixture(autouse=True)
def _alone(empty_folder):
    """No `./methods` but what a test puts there."""


@pytest.fixture
def varied(tmp_path):
    """Four seeds of two methods: of everything, and of the initial weights alone."""
    for settings in ((), ("training.vary=init",)):
        for cell in plan(Request(("ms", "ms+psd"), ("glyphs",), tuple(range(4)), "conv4-64", settings)):
            write_cell(tmp_path, cell)
    return tmp_path


def found(root, chosen=NO_STUDIES):
    results = load_results(root)
    values = seed_values(results)
    over_classes = over_test_classes(results, measure_kept(results))
    return variances(values, comparisons(seed_pairs(values), values), over_classes, chosen)


def test_settings_without_the_source_that_is_varied():
    assert split_source(Settings(("input.size=16", "training.vary=init"))) == (Settings(("input.size=16",)), "init")
    assert split_source(Settings(("training.epochs=3",))) == (Settings(("training.epochs=3",)), "all")


def test_one_table_of_all_seeds_and_of_one_source(varied):
    table = found(varied)
    assert set(table["overrides"]) == {Settings()}
    assert set(zip(table["method"], table["source"], table["metric"], strict=True)) == {
        *((name, source, metric) for name in ("ms", "ms+psd") for source in ("all", "init")
          for metric in ("recall_at_1", "map_at_r")),
        *(("ms+psd", source, "difference") for source in ("all", "init")),
    }  # fmt: skip
    results = load_results(varied)
    last = results[
        (results["selection"] == "last") & (results["method"] == "ms") & (results["overrides"] != Settings())
    ]
    (row,) = table.query("method == 'ms' and source == 'init' and metric == 'recall_at_1'").to_dict("records")
    assert row["n"] == 4
    assert row["std"] == pytest.approx(last["recall_at_1"].std(ddof=1))
    # The interval that holds the true one in 95% of samples of normal values.
    chance = stats.chi2.cdf(3 * row["std"] ** 2 / np.array([row["low"], row["high"]]) ** 2, 3)
    assert chance == pytest.approx([0.975, 0.025])


def test_without_a_source_of_its_own_there_is_no_table(tmp_path):
    for seed in range(4):
        write_cell(tmp_path, make_cell("ms", seed))
    assert found(tmp_path).empty
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    assert "Sources of variance" not in text


def test_test_classes_are_drawn_of_the_mean_over_seeds(tmp_path):
    """Hits of the queries 0 to 3 by hand, the fifth is alone in its class: seed 0 1100, seed 1 0111."""
    for seed, vectors in enumerate((angles(0, 5, 12, 90, 100), angles(0, 40, 100, 105, -20))):
        keep(write_cell(tmp_path, make_cell("ms", seed)), vectors, LABELS)
    results = load_results(tmp_path)
    (row,) = over_test_classes(results, measure_kept(results)).to_dict("records")
    # The classes' means are (0.5 + 1) / 2 and (0.5 + 0.5) / 2; a draw has the first twice, the second twice, or both.
    assert (row["mean"], row["low"], row["high"], row["n"]) == (0.625, 0.5, 0.75, 2)
    assert row["std"] == pytest.approx(0.125 / np.sqrt(2), abs=0.002)
    (spread,) = found(tmp_path).query("source == 'classes'").to_dict("records")
    assert (spread["std"], spread["metric"]) == (row["std"], "recall_at_1")
    text = (render(tmp_path, "r", tmp_path / "reports") / "report.md").read_text()
    assert "| R@1 over classes |" in text
    assert r"\[50.00, 75.00\]" in text


def test_studies_of_tuning_spread_by_the_test_scores_of_what_they_chose(varied):
    key = load_results(varied).query("method == 'ms'").iloc[0][[*GROUP, *METHOD]].to_dict()
    scores = [0.30, 0.32, float("nan"), 0.37]
    chosen = pd.DataFrame([key | {"study": number, "test": test} for number, test in enumerate(scores)])
    (row,) = found(varied, chosen).query("source == 'tuning'").to_dict("records")
    assert (row["n"], row["metric"]) == (3, "map_at_r")
    assert row["std"] == pytest.approx(np.std([0.30, 0.32, 0.37], ddof=1))


def test_the_report_has_one_row_for_each_source(varied):
    folder = render(varied, "r", varied / "reports")
    text = (folder / "report.md").read_text()
    assert text.count("**Sources of variance of conv4-64 on glyphs; last epoch**") == 1
    assert "| ms | seed (initial weights and order) | 4 |" in text
    assert "| ms+psd | initial weights | 4 |" in text
    assert set(pd.read_csv(folder / "tables" / "variance.csv")["source"]) == {"all", "init"}
