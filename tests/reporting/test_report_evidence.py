import math

import pandas as pd
import pytest

from dmlbench.analysis import estimates
from dmlbench.analysis.comparisons import seed_pairs
from dmlbench.analysis.groups import Group
from dmlbench.reporting import tables
from dmlbench.reporting.tables.comparison import can_rank
from dmlbench.results.frames import load_results
from tests.reporting.fake_results import make_cell, write_cell
from tests.reporting.frames import GLYPHS, pick
from tests.reporting.frames import compared as compared_by
from tests.typed import NONE, shown


def test_evidence_has_a_verdict_by_the_corrected_p(values):
    table = tables.evidence_table(GLYPHS, "last", "recall_at_1", compared_by(seed_pairs(values), values))
    rows = {(row[0].text, row[1].text): row for row in table.rows}
    assert list(rows) == [
        ("ms+psd", "ms"),
        ("ms+obdsd", "ms"),
        ("ms+obdsd", "ms+psd"),
        ("proxyanchor", "ms"),
        ("proxyanchor+psd", "proxyanchor"),
    ]
    assert rows["ms+obdsd", "ms"][4].text == "▲ better"
    assert rows["ms+psd", "ms"][4].text == "○ inconclusive"
    assert any("the 5 comparisons of this table" in note for note in table.notes)
    assert any("reach: .063 with 5 pairs. Six pairs are the fewest" in note for note in table.notes)
    found = compared_by(seed_pairs(GLYPHS.of(values)), values)
    found = pick(found, selection="last", metric="recall_at_1").set_index(["method", "to_method"])
    for pair, row in rows.items():
        expected = found.loc[pair, ["p_bh", "p_sign_flip", "effect_size", "probability_of_improvement"]]
        assert [entry.value for entry in row[6:10]] == pytest.approx(expected.tolist())


def test_one_seed_is_not_tested(tmp_path):
    for name in ("ms", "ms+psd"):
        write_cell(tmp_path, make_cell(name, 0))
    runs = estimates.seed_values(load_results(tmp_path))
    found = compared_by(seed_pairs(runs), runs)
    table = tables.evidence_table(GLYPHS, "last", "recall_at_1", found)
    assert [entry.text for entry in table.rows[0][6:10]] == ["–", "–", "–", "–"]
    assert table.rows[0][4].text == "? too few seeds"
    assert "Too few pairs for any test." in table.notes
    assert table.notes[-1] == "Fewer than 3 pairs, so nothing can be concluded from: ms+psd against ms (1)."


def compared(*pairs):
    """Comparisons as evidence tables take them: (method, other, pairs, p)."""
    rows = [
        {"protocol": "p", "variant": "", "dataset": "d", "selection": "last", "metric": "recall_at_1", "method": method,
         "base": "ms", "modifier": method.partition("+")[2], "to": to, "primary": "+" not in to, "marks": "",
         "mean": 0.01, "low": 0.0, "high": 0.02, "n": n, "p_t": p, "p_bh": p, "p_sign_flip": p, "effect_size": 1.0,
         "std": 0.01, "verdict": "inconclusive" if n >= 3 else "", "all_low": -0.01, "all_high": 0.03,
         "probability_of_improvement": 0.5, "improvement_low": 0.2, "improvement_high": 0.8,
         "family": sum(own[2] >= 3 for own in pairs)}
        for method, to, n, p in pairs
    ]  # fmt: skip
    return shown(pd.DataFrame(rows))


def test_notes_say_what_was_tested_and_what_was_not():
    rows = compared(("ms+psd", "ms", 4, 0.5), ("ms+obdsd", "ms", 4, 0.5), ("ms+obdsd", "ms+psd", 2, math.nan))
    notes = " ".join(tables.evidence_table(Group("p", NONE, "d"), "last", "recall_at_1", rows).notes)
    assert "for the 2 of the 3 comparisons that have 3 pairs or more" in notes
    assert "nothing can be concluded from: ms+obdsd against ms+psd (2)." in notes


def test_six_pairs_need_no_excuse():
    rows = compared(("ms+psd", "ms", 6, 0.5))
    notes = " ".join(tables.evidence_table(Group("p", NONE, "d"), "last", "recall_at_1", rows).notes)
    assert "reach: .031 with 6 pairs." in notes
    assert "corrected by Benjamini and Hochberg's method for one comparison, which leaves it as it is" in notes
    assert "Six pairs are the fewest" not in notes
    assert "sign-flip: exact, two-sided" in notes
    many = " ".join(tables.evidence_table(Group("p", NONE, "d"), "last", "recall_at_1", rows.assign(n=20)).notes)
    assert "sign-flip: exact up to 16 pairs, else drawn" in many


def ranked(seeds, friedman=0.01, datasets=6):
    names = {"protocol": "p", "variant": "", "selection": "last", "metric": "recall_at_1", "modifier": "", "marks": ""}
    rows = [
        names | {"method": name, "base": name, "iqm": iqm, "low": 0.1, "high": 0.9, "rank": rank, "datasets": datasets,
                 "over": "a, b", "n": 36, "seeds": seeds, "friedman_p": friedman}
        for name, iqm, rank in (("ms", 0.7, 1.0), ("triplet", 0.6, 2.5), ("margin", 0.5, 2.5))
    ]  # fmt: skip
    return shown(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (ranked(6), "Friedman's test shows differences (p .010): average ranks differ where they lie 1.35 apart"),
        (ranked(6, friedman=0.3), "Friedman's test (p .300) shows no difference."),
        (ranked(2), "Fewer than 3 seeds of a dataset, so nothing can be concluded."),
        (ranked(6, datasets=5), "Fewer than 6 datasets: ranks show an order, no evidence."),
    ],
)
def test_what_ranks_are_worth(means, said):
    table = tables.over_datasets_table("p", "p", means, ["ms", "triplet", "margin", "proxyanchor"])
    assert table.notes[-1].startswith(said)
    assert can_rank(means) is ("average ranks" in said or "Friedman" in said)
    assert "Left out, for want of one of these datasets or of 3 seeds: proxyanchor." in table.notes
    (margin,) = (row for row in table.rows if row[0].text == "margin")
    assert [entry.text for entry in margin[1:4]] == ["36", "50.00", "2.50"]
