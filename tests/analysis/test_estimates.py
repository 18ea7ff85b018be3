import pandas as pd
import pytest

from dmlbench.analysis.estimates import accuracy, optimism, selections_of, verdict_selection
from tests.analysis.fake_values import values


def chosen(last, best):
    rows = [values({"ms": own}).assign(selection=name) for name, own in (("last", last), ("best_test", best))]
    return pd.concat(rows, ignore_index=True)


def test_optimism_is_paired_by_seed():
    (row,) = optimism(chosen([0.60, 0.62], [0.61, 0.66])).to_dict("records")
    assert (row["mean"], row["n"]) == (pytest.approx(0.025), 2)
    assert row["std"] == pytest.approx(0.0212132)


def test_a_seed_without_one_of_the_two_is_left_out():
    (row,) = optimism(chosen([0.60, 0.62], [0.61, None])).to_dict("records")
    assert row["n"] == 1


def test_without_a_best_test_epoch_there_is_none():
    assert optimism(values({"ms": [0.6]})).empty


def test_accuracy_has_a_standard_deviation():
    (row,) = accuracy(values({"ms": [0.6, 0.62, 0.64]})).to_dict("records")
    assert row["std"] == pytest.approx(0.02)


def test_a_verdict_is_given_by_validation_where_there_is_one():
    frame = pd.DataFrame({"selection": ["best_test", "untrained", "validation", "last"]})
    assert selections_of(frame) == ["last", "validation", "best_test"]
    assert verdict_selection(selections_of(frame)) == "validation"
    assert verdict_selection(["last", "best_test"]) == "last"
