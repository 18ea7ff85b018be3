import pandas as pd
import pytest
from fake_values import values

from dmlbench.analysis.groups import Group
from dmlbench.analysis.tuning import trials_of, tuned_beside_files, unequal_trials
from dmlbench.report.tables.accuracy import tuning_table
from dmlbench.specs.registry import tuned_mark


def tuned(own: pd.DataFrame, trials: int = 8) -> pd.DataFrame:
    names = {name: own[name].where(own[name] == "", own[name] + "{tuned}") for name in ("method", "base", "modifier")}
    return own.assign(**names, marks=tuned_mark(str(trials)))


def test_differences_are_formed_by_seed():
    files = values({"ms": [0.60, 0.62, 0.61, 0.7], "ms+psd": [0.5, 0.5, 0.5, 0.5]})
    ours = tuned(values({"ms": [0.63, 0.64, 0.62], "ms+psd": [0.6, 0.7, 0.8]}))
    found = tuned_beside_files(pd.concat([files, ours])).set_index("method")
    assert list(found.index) == ["ms{tuned}", "ms+psd{tuned}"]
    row = found.loc["ms{tuned}"]
    assert (row["files"], row["tuned"], row["mean"]) == pytest.approx((0.61, 0.63, 0.02))
    assert row["low"] < 0.02 < row["high"]
    assert (row["n"], row["trials"]) == (3, "8")
    assert found.loc["ms+psd{tuned}", "mean"] == pytest.approx(0.2)


def test_what_was_not_tuned_has_no_row_and_what_has_no_partner_no_difference():
    assert tuned_beside_files(values({"ms": [0.6, 0.7]})).empty
    other = tuned(values({"ms": [0.6, 0.7]})).assign(origin="cuda")
    for alone in (tuned(values({"ms": [0.6, 0.7]})), pd.concat([values({"ms": [0.6, 0.7]}), other])):
        (row,) = tuned_beside_files(alone).to_dict("records")
        assert row["tuned"] == pytest.approx(0.65)
        assert row["n"] == 0
        assert pd.isna(row["files"])
        table = tuning_table(Group("p", "", "d"), tuned_beside_files(alone))
        assert [entry.text for entry in table.rows[0]] == [
            "ms{tuned}",
            "8",
            "not recorded",
            "0",
            "–",
            "65.00",
            "–",
            tuned_mark("8"),
        ]


def test_the_number_of_trials_stands_in_the_marks():
    assert trials_of("new: in no paper; " + tuned_mark("16")) == "16"
    assert trials_of(tuned_mark("16 x 3")) == "16 x 3"
    assert trials_of("untuned: nothing published") == ""


def test_the_mark_says_how_little_the_choice_rests_on():
    assert tuned_mark("8").endswith(", chosen on one split and one seed: see the margin")
    assert tuned_mark("8 x 3").endswith(", chosen on one split and 3 seeds: see the margin")


def test_the_margin_stands_beside_the_trials():
    ours = tuned(values({"ms": [0.63, 0.64, 0.62]}))
    found = tuned_beside_files(ours, {("p", "d", "ms{tuned}"): "0.19 points, 1 of 540 queries"})
    assert set(found["margin"]) == {"0.19 points, 1 of 540 queries"}


def test_unequal_budgets_are_told_of():
    ms, psd = tuned(values({"ms": [0.6]}), 4), tuned(values({"ms+psd": [0.6]}), 8)
    (note,) = unequal_trials(pd.concat([ms, psd]))
    assert note.startswith("Unequal numbers of trials (ms{tuned} 4, ms+psd{tuned} 8)")
    assert unequal_trials(pd.concat([ms, tuned(values({"ms+psd": [0.6]}), 4)])) == []
    assert unequal_trials(values({"ms": [0.6], "ms+psd": [0.6]})) == []
