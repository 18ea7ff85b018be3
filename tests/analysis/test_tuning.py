import pandas as pd
import pytest

from dmlbench.analysis.groups import Group
from dmlbench.analysis.tuning import budget_of, tuned_beside_files
from dmlbench.reporting.naming import named
from dmlbench.reporting.tables.accuracy import tuning_table
from dmlbench.reporting.tables.table import about_pairs
from dmlbench.specs.registry import searched_mark
from tests.analysis.fake_values import values
from tests.typed import NONE


def tuned(own: pd.DataFrame, epochs: int = 160) -> pd.DataFrame:
    return own.assign(tuned=True, marks=searched_mark(epochs, 4))


def test_differences_are_formed_by_seed():
    files = values({"ms": [0.60, 0.62, 0.61, 0.7], "ms+psd": [0.5, 0.5, 0.5, 0.5]})
    ours = tuned(values({"ms": [0.63, 0.64, 0.62], "ms+psd": [0.6, 0.7, 0.8]}))
    found = tuned_beside_files(pd.concat([files, ours])).set_index("method")
    assert list(found.index) == ["ms", "ms+psd"]
    row = found.loc["ms"]
    assert (row["mean_of_files"], row["mean_of_tuned"], row["mean"]) == pytest.approx((0.61, 0.63, 0.02))
    assert row["low"] < 0.02 < row["high"]
    assert (row["n"], row["budget"]) == (3, "160 epochs")
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
            "160 epochs",
            "not recorded",
            "0",
            "–",
            "65.00",
            "–",
            searched_mark(160, 4),
        ]


def test_the_budget_is_read_from_the_marks():
    assert budget_of("new: in no paper; " + searched_mark(320, 4)) == "320 epochs"
    assert budget_of("untuned: nothing published") == ""


def test_the_margin_follows_the_budget():
    ours = tuned(values({"ms": [0.63, 0.64, 0.62]}))
    found = tuned_beside_files(ours, {("p", "d", "ms"): "+0.19 ± 0.10 points MAP@R"})
    assert set(found["margin"]) == {"+0.19 ± 0.10 points MAP@R"}


def test_unequal_budgets_are_told_of():
    ms, psd = tuned(values({"ms": [0.6]}), 80), tuned(values({"ms+psd": [0.6]}), 160)
    (note,) = about_pairs(pd.concat([ms, psd]))
    assert note.startswith("Unequal budgets of tuning (ms{tuned} 80 epochs, ms+psd{tuned} 160 epochs)")
    assert about_pairs(pd.concat([ms, tuned(values({"ms+psd": [0.6]}), 80)])) == []
    assert about_pairs(values({"ms": [0.6], "ms+psd": [0.6]})) == []
