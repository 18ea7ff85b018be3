"""Claims as tables: what a reader is told of a claim."""

from dataclasses import replace

import pytest

from dmlbench.analysis.claims import judge
from dmlbench.errors import UserError
from dmlbench.reporting.page import render
from dmlbench.reporting.tables.claims import claim_tables
from dmlbench.results.claims import declare
from dmlbench.results.store import Store
from dmlbench.specs.study import Claim, parse_claim
from tests.analysis.test_claims import GAINS, declared, results
from tests.reporting.fake_results import make_cell, write_cell


def table(gains=GAINS, **changes):
    frame = results(gains)
    (found,) = claim_tables([judge(declared(frame, **changes), frame)])
    return found


def rows(found):
    return {row[0].text: [entry.text for entry in row[1:]] for row in found.rows}


def test_a_claim_has_its_main_effect_each_base_and_the_last_word():
    found = table()
    assert list(rows(found)) == ["all bases (main effect)", "ms", "triplet", "every base (consistently)"]
    assert rows(found)["every base (consistently)"][2] == "▲ shown"
    assert "Equivalent: shown to be smaller than 1 point, the smallest effect of interest." in found.notes


def test_a_claim_of_one_base_is_one_row():
    found = table({"ms": GAINS["ms"]}, bases=("ms",))
    assert list(rows(found)) == ["ms"]
    assert found.notes[-1] == "p: paired t-test."


def test_opposite_effects_are_told_of_though_the_mean_hides_them():
    found = table({"ms": GAINS["ms"], "triplet": [-value for value in GAINS["ms"]]})
    assert rows(found)["ms"][4] == "–"  # not tested: the gate is closed
    assert rows(found)["every base (consistently)"][2] == "○ not shown"
    assert any(note.startswith("The bases differ: the simultaneous interval of ms, triplet") for note in found.notes)


def test_better_by_less_than_matters_is_said():
    small = [0.003, 0.004, 0.0035, 0.003, 0.004, 0.0038]
    found = table({"ms": small, "triplet": small})
    assert rows(found)["ms"][2] == "= equivalent"
    assert rows(found)["every base (consistently)"][2] == "▲ shown, by less than the smallest effect"


def test_what_is_missing_for_a_verdict_is_named():
    frame = results()
    lacking = frame[frame["base"] == "ms"]
    (found,) = claim_tables([judge(declared(frame), lacking)])
    assert found.rows == ()
    assert found.notes[-1] == (
        "No verdict: every base needs a seed with results on every dataset. None of triplet on d."
    )


def test_several_claims_on_the_same_cells_are_told_of():
    frame = results()
    one = judge(declared(frame), frame)
    other = replace(one, declared=declared(frame, effect=2.0))
    for found in claim_tables([one, other]):
        assert found.notes[-1].startswith("1 other claim on some of the same cells: each has its own 5%")
    assert not any("same cells" in note for note in claim_tables([one])[0].notes)


def test_claims_of_one_study_have_the_order_of_modifiers(tmp_path):
    cells = [make_cell(name, seed) for seed in range(3) for name in ("ms", "ms+psd", "ms+obdsd")]
    declare([Claim(modifier=name, bases=("ms",)) for name in ("obdsd", "psd")], cells, Store(tmp_path / "results"))
    for cell in cells:
        write_cell(tmp_path / "results", cell)
    text = (render(tmp_path / "results", "r", tmp_path / "reports") / "report.md").read_text()
    assert 0 < text.index(" psd improves") < text.index(" obdsd improves")


@pytest.mark.parametrize("claim", ["pds:ms", "psd:tripet"])
def test_a_claim_after_the_fact_needs_names_that_there_are(tmp_path, claim):
    for name in ("ms", "ms+psd"):
        write_cell(tmp_path, make_cell(name, 0))
    with pytest.raises(UserError, match=f"claim {claim}: unknown (modifier 'pds'|base 'tripet')"):
        render(tmp_path, "r", tmp_path / "reports", claims=[parse_claim(claim)])
    assert not (tmp_path / "reports" / "r").exists()
