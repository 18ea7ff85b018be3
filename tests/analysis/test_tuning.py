import pandas as pd
import pytest
from fake_values import values

from dmlbench.analysis.tuning import trials_of, tuned_beside_files
from dmlbench.registry import TUNED_MARK


def tuned(own: pd.DataFrame, trials: int = 8) -> pd.DataFrame:
    names = {name: own[name].where(own[name] == "", own[name] + "{tuned}") for name in ("method", "base", "modifier")}
    return own.assign(**names, marks=TUNED_MARK.format(trials))


def test_differences_are_formed_by_seed():
    files = values({"ms": [0.60, 0.62, 0.61, 0.7], "ms+psd": [0.5, 0.5, 0.5, 0.5]})
    ours = tuned(values({"ms": [0.63, 0.64, 0.62], "ms+psd": [0.6, 0.7, 0.8]}))
    found = tuned_beside_files(pd.concat([files, ours])).set_index("method")
    assert list(found.index) == ["ms{tuned}", "ms+psd{tuned}"]
    row = found.loc["ms{tuned}"]
    assert (row["files"], row["tuned"], row["mean"]) == pytest.approx((0.61, 0.63, 0.02))
    assert row["low"] < 0.02 < row["high"]
    assert (row["n"], row["trials"]) == (3, 8)
    assert found.loc["ms+psd{tuned}", "mean"] == pytest.approx(0.2)


def test_what_was_not_tuned_or_has_no_partner_has_no_row():
    assert tuned_beside_files(values({"ms": [0.6, 0.7]})).empty
    assert tuned_beside_files(tuned(values({"ms": [0.6, 0.7]}))).empty
    other = tuned(values({"ms": [0.6, 0.7]})).assign(origin="cuda")
    assert tuned_beside_files(pd.concat([values({"ms": [0.6, 0.7]}), other])).empty


def test_the_number_of_trials_stands_in_the_marks():
    assert trials_of(f"new: in no paper; {TUNED_MARK.format(16)}") == 16
    assert trials_of("untuned: nothing published") is None
