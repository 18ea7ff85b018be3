import pandas as pd
import pytest

from dmlbench.analysis.groups import Group
from dmlbench.analysis.tuning import budget_of, tuned_beside_files
from dmlbench.reporting.naming import named
from dmlbench.reporting.tables.accuracy import tuning_table
from dmlbench.reporting.tables.table import about_pairs
from dmlbench.specs.registry import searched_mark, tuned_mark
from tests.analysis.fake_values import values
from tests.typed import NONE


def tuned(own: pd.DataFrame, trials: int = 8) -> pd.DataFrame:
    return own.assign(tuned=True, marks=tuned_mark(str(trials)))


def test_differences_are_formed_by_seed():
    files = values({"ms": [0.60, 0.62, 0.61, 0.7], "ms+psd": [0.5, 0.5, 0.5, 0.5]})
    ours = tuned(values({"ms": [0.63, 0.64, 0.62], "ms+psd": [0.6, 0.7, 0.8]}))
    found = tuned_beside_files(pd.concat([files, ours])).set_index("method")
    assert list(found.index) == ["ms", "ms+psd"]
    row = found.loc["ms"]
    assert (row["mean_of_files"], row["mean_of_tuned"], row["mean"]) == pytest.approx((0.61, 0.63, 0.02))
    assert row["low"] < 0.02 < row["high"]
    assert (row["n"], row["budget"]) == (3, "8 trials")
    assert found.loc["ms+psd", "mean"] == pytest.approx(0.2)


def test_what_was_not_tuned_has_no_row_and_what_has_no_partner_no_difference():
    assert tuned_beside_files(values({"ms": [0.6, 0.7]})).empty
    other = tuned(values({"ms": [0.6, 0.7]})).assign(origin="cuda")
    for alone in (tuned(values({"ms": [0.6, 0.7]})), pd.concat([values({"ms": [0.6, 0.7]}), other])):
        (row,) = tuned_beside_files(alone).to_dict("records")
        assert row["mean_of_tuned"] == pytest.approx(0.65)
        assert row["n"] == 0
        assert pd.isna(row["mean_of_files"])
        table = tuning_table(Group("p", NONE, "d"), named(tuned_beside_files(alone)))
        assert [entry.text for entry in table.rows[0]] == [
            "ms{tuned}",
            "8 trials",
            "not recorded",
            "0",
            "–",
            "65.00",
            "–",
            tuned_mark("8"),
        ]


def test_the_budget_is_read_from_the_marks():
    assert budget_of("new: in no paper; " + tuned_mark("16")) == "16 trials"
    assert budget_of(tuned_mark("16 x 3")) == "16 x 3 trials"
    assert budget_of("new: in no paper; " + searched_mark(320, 4)) == "320 epochs"
    assert budget_of("untuned: nothing published") == ""


def test_the_notes_say_what_budgets_count():
    plain, searched = values({"ms": [0.6, 0.7]}), tuned(values({"ms": [0.6, 0.7]}))
    for mark, kind in ((tuned_mark("8"), "trials"), (searched_mark(320, 4), "epochs")):
        found = named(tuned_beside_files(pd.concat([plain, searched.assign(marks=mark)])))
        notes = tuning_table(Group("p", NONE, "d"), found).notes
        assert [note.partition(":")[0] for note in notes if note.startswith("Budgets")] == [f"Budgets in {kind}"]


def test_the_mark_says_how_little_the_choice_rests_on():
    assert tuned_mark("8").endswith(", chosen on one split and one seed: see the margin")
    assert tuned_mark("8 x 3").endswith(", chosen on one split and 3 seeds: see the margin")


def test_the_margin_stands_beside_the_trials():
    ours = tuned(values({"ms": [0.63, 0.64, 0.62]}))
    found = tuned_beside_files(ours, {("p", "d", "ms"): "0.19 points, 1 of 540 queries"})
    assert set(found["margin"]) == {"0.19 points, 1 of 540 queries"}


def test_unequal_budgets_are_told_of():
    ms, psd = tuned(values({"ms": [0.6]}), 4), tuned(values({"ms+psd": [0.6]}), 8)
    (note,) = about_pairs(pd.concat([ms, psd]))
    assert note.startswith("Unequal budgets of tuning (ms{tuned} 4 trials, ms+psd{tuned} 8 trials)")
    assert about_pairs(pd.concat([ms, tuned(values({"ms+psd": [0.6]}), 4)])) == []
    assert about_pairs(values({"ms": [0.6], "ms+psd": [0.6]})) == []
