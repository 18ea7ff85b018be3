import pytest

from dmlbench.analysis.comparisons import primary
from dmlbench.analysis.groups import Group
from dmlbench.analysis.statistics import verdict
from dmlbench.reporting.numbers import Numbers
from dmlbench.reporting.tables.comparison import verdicts
from dmlbench.reporting.tables.summary import summary_tables
from dmlbench.results.frames import load_history, load_results
from tests.reporting.fake_results import make_cell, write_cell
from tests.reporting.frames import GLYPHS, pick
from tests.typed import NONE, settings


def given(root, group=GLYPHS):
    numbers = Numbers.of(load_results(root), load_history(root))
    compared = numbers.comparisons
    shown = primary(compared)
    shown = shown[(shown["selection"] == "last") & (shown["metric"] == "recall_at_1") & (shown["modifier"] != "")]
    return verdicts(group, shown, numbers.overhead)


def pooled_of(root):
    return primary(Numbers.of(load_results(root), load_history(root)).pooled)


@pytest.mark.parametrize(
    ("n", "p", "p_equivalent", "mean", "kind"),
    [
        (2, float("nan"), float("nan"), 0.1, ""),
        (6, 0.01, 0.9, 0.1, "better"),
        (6, 0.01, 0.9, -0.1, "worse"),
        (6, 0.05, 0.05, 0.1, "inconclusive"),
        (6, 0.9, 0.01, 0.001, "equivalent"),
        (6, 0.01, 0.01, 0.001, "equivalent"),  # surely not 0, and surely smaller than what is of interest
    ],
)
def test_what_the_numbers_say(n, p, p_equivalent, mean, kind):
    assert verdict(n, mean, p, p_equivalent) == kind


def test_a_verdict_holds_difference_and_price(results):
    found = {verdict.row["name"]: verdict for verdict in given(results)}
    assert (found["ms+obdsd"].kind, found["ms+obdsd"].sign) == ("better", "▲")
    assert found["ms+obdsd"].row["p_bh"] == pytest.approx(0.011, abs=5e-4)  # not the t-test's own .003
    assert found["ms+obdsd"].ratio["mean"] == pytest.approx(1.34, abs=5e-3)


def test_one_seed_gives_no_verdict(tmp_path):
    for name in ("ms", "ms+psd"):
        write_cell(tmp_path, make_cell(name, 0))
    (verdict,) = given(tmp_path)
    assert (verdict.kind, verdict.sign) == ("", "?")


def test_methods_without_a_base_have_none(tmp_path):
    write_cell(tmp_path, make_cell("ms+psd", 0))
    assert given(tmp_path) == []


def test_the_summary_has_a_row_per_method_and_a_column_per_dataset(results):
    found = {group: given(results, group) for group in (GLYPHS, Group("conv4-64", NONE, "omniglot-small"))}
    found[Group("conv4-64", settings("training.epochs=9"), "glyphs")] = []  # bases alone
    (table,) = summary_tables(found, pooled_of(results))
    assert table.columns == ("Method", "Against", "glyphs", "omniglot-small", "Together", "Step time", "Marks")
    rows = {row[0].text: row for row in table.rows}
    assert list(rows) == ["ms+psd", "ms+obdsd", "proxyanchor+psd"]
    assert (rows["ms+obdsd"][2].text, rows["ms+obdsd"][2].kind) == ("▲ +2.70", "better")
    assert rows["ms+obdsd"][1].text == "ms"
    assert rows["ms+obdsd"][2].interval == "[+1.49, +3.90]"
    assert rows["proxyanchor+psd"][3].text.startswith("? ")  # one seed
    whole = pick(pooled_of(results), method="ms+obdsd", selection="last", metric="recall_at_1", overrides=NONE)
    assert rows["ms+obdsd"][4].value == pytest.approx(whole["mean"].iloc[0])
    assert rows["ms+obdsd"][4].kind == "better"
    assert rows["proxyanchor+psd"][4].kind == ""  # one seed on one of the two
    assert rows["ms+obdsd"][5].text == "1.34–1.35×"
    assert table.notes[0] == (
        "▲ better, ▼ worse, = equivalent, ○ inconclusive, ? too few seeds. Exploratory: paired t-tests, Benjamini and "
        "Hochberg's correction, at .05."
    )


def test_a_dataset_without_the_method_is_a_dash(tmp_path):
    for name, dataset in (("ms", "glyphs"), ("ms+psd", "glyphs"), ("ms", "cub"), ("ms+obdsd", "cub")):
        write_cell(tmp_path, make_cell(name, 0, dataset))
    found = {group: given(tmp_path, group) for group in (GLYPHS, Group("conv4-64", NONE, "cub"))}
    (table,) = summary_tables(found, pooled_of(tmp_path))
    assert table.columns[2:4] == ("cub", "glyphs")
    assert table.rows[0][2].text == "–"
