import math

import numpy as np
import pandas as pd
import pytest
from fake_results import make_cell, write_cell
from scipy import stats

from dmlbench.analysis import estimates
from dmlbench.analysis.comparisons import comparisons, seed_pairs, to_base
from dmlbench.analysis.groups import Group, arrange, groups
from dmlbench.analysis.order import in_order
from dmlbench.analysis.overhead import overhead
from dmlbench.analysis.published import reproduction
from dmlbench.report import tables
from dmlbench.report.formats import csv, escape_latex, escape_markdown, latex, markdown
from dmlbench.report.naming import metric_name, percent, points, table_metrics
from dmlbench.report.sources import unfinished
from dmlbench.report.tables.coverage import coverage_table
from dmlbench.report.tables.datasets import can_rank
from dmlbench.report.tables.settings import settings_tables
from dmlbench.report.tables.table import estimate_entry
from dmlbench.results import load_results
from dmlbench.store import Store

GLYPHS = Group("conv4-64", "", "glyphs")


@pytest.fixture(scope="module")
def arranged(results):
    return arrange(load_results(results))


@pytest.fixture(scope="module")
def values(arranged):
    return estimates.seed_values(arranged)


def differences(values):
    return to_base(comparisons(seed_pairs(values), values))


def pick(frame, **wanted):
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def raw(arranged, method, selection="last", metric="recall_at_1"):
    rows = pick(GLYPHS.of(arranged), method=method, selection=selection)
    return rows.set_index("seed")[metric].sort_index()


def test_accuracy_is_the_mean_and_t_interval_over_seeds(arranged, values):
    (row,) = pick(GLYPHS.of(estimates.accuracy(values)), method="ms", selection="last", metric="recall_at_1").to_dict(
        "records"
    )
    sample = raw(arranged, "ms").to_numpy()
    half = stats.t.ppf(0.975, 4) * np.std(sample, ddof=1) / np.sqrt(5)
    assert row["mean"] == pytest.approx(sample.mean())
    assert (row["low"], row["high"]) == pytest.approx((sample.mean() - half, sample.mean() + half))
    assert row["n"] == 5


def test_the_untrained_network_counts_once_per_seed(arranged, values):
    (row,) = pick(GLYPHS.of(estimates.accuracy(values)), method="untrained", metric="recall_at_1").to_dict("records")
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
    found = estimates.accuracy(values)
    assert len(groups(found)) == 3
    assert set(pick(found, variant="")["selection"]) == {"untrained", "last", "best_test"}
    assert set(found[found["variant"] != ""]["selection"]) == {"untrained", "last", "validation", "best_test"}
    key = ["protocol", "variant", "dataset", "selection", "method", "metric"]
    assert not found.duplicated(key).any()


def test_geometry_stands_in_the_csv_alone(values):
    found = estimates.accuracy(values)
    assert "spectral_decay" in set(found["metric"])
    assert "spectral decay" not in tables.accuracy_table(GLYPHS, "last", found).columns


def test_accuracy_table_starts_with_the_untrained_network_and_shows_marks(values):
    table = tables.accuracy_table(GLYPHS, "last", estimates.accuracy(values))
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
    found = estimates.accuracy(values)
    table = tables.accuracy_table(GLYPHS, "best_test", found)
    assert "as published: chosen on the test classes" in table.title
    assert "as published" in tables.difference_table(GLYPHS, "best_test", differences(values), found).title


def test_one_seed_has_no_interval_and_a_warning(values):
    group = Group("conv4-64", "", "omniglot-small")
    table = tables.accuracy_table(group, "last", estimates.accuracy(values))
    alone = table.rows[-1]
    assert [entry.interval for entry in alone] == [""] * len(alone)
    assert table.notes[-1] == "Fewer than 3 seeds, so nothing can be concluded from: proxyanchor+psd (1)."
    assert not any(
        note.startswith("Fewer") for note in tables.accuracy_table(GLYPHS, "last", estimates.accuracy(values)).notes
    )


def test_a_metric_of_fewer_seeds_says_so():
    entry = estimate_entry({"mean": 0.5, "low": 0.4, "high": 0.6, "n": 2}, percent, seeds=3)
    assert (entry.text, entry.interval) == ("50.00", "[40.00, 60.00] n = 2")


def test_a_method_without_its_base_is_named(tmp_path):
    write_cell(tmp_path, make_cell("ms+psd", 0))
    write_cell(tmp_path, make_cell("ms", 1))
    found = estimates.seed_values(arrange(load_results(tmp_path)))
    table = tables.difference_table(GLYPHS, "last", differences(found), estimates.accuracy(found))
    assert table.rows == ()
    assert table.notes[-1] == "No result of the base with the same seed among these, so no difference for: ms+psd."


def test_overhead_table_says_what_it_is_and_what_it_left_out(tmp_path):
    for name, machine in ("ms", "m1"), ("ms+psd", "m2"):
        write_cell(tmp_path, make_cell(name, 0), machine=machine)
    table = tables.overhead_table(GLYPHS, overhead(arrange(load_results(tmp_path))))
    assert [entry.text for entry in table.rows[0]] == ["ms+psd", "ms", "–", "–", "–", "0"]
    assert any("not an isolated, interleaved measurement" in note for note in table.notes)
    assert any("different machines or under different loads: ms+psd (1)" in note for note in table.notes)


def test_numbers_are_written_in_percent_and_points():
    assert (percent(0.6280), percent(math.nan)) == ("62.80", "–")
    assert (points(0.0042), points(-0.01234), points(0.0)) == ("+0.42", "−1.23", "+0.00")
    assert (metric_name("recall_at_1000"), metric_name("map_at_r"), metric_name("spectral_decay")) == (
        "R@1000",
        "MAP@R",
        "spectral decay",
    )
    assert table_metrics({"nmi", "recall_at_10", "recall_at_2", "map_at_r", "x"}) == [
        "recall_at_2",
        "recall_at_10",
        "map_at_r",
        "nmi",
    ]


def test_methods_stand_in_one_order():
    names = ["zeta+psd", "untrained", "ms+obdsd", "ms+psd", "ms", "contrastive", "ms{alpha=3}"]
    rows = [name.partition("+") for name in names]
    frame = pd.DataFrame({"method": names, "base": [r[0] for r in rows], "modifier": [r[2] for r in rows]})
    frame.loc[frame["method"] == "untrained", "base"] = ""
    expected = ["untrained", "contrastive", "ms", "ms+psd", "ms+obdsd", "ms{alpha=3}", "zeta+psd"]
    assert list(in_order(frame)["method"]) == expected


def test_readouts_stand_after_their_mean_also_with_tuned_values():
    modifiers = ["dm2{member 1}{tuned}", "dm2{tuned}", "dm2{ensemble}{tuned}", "dm2{ensemble}", "dm2"]
    names = [f"ms+{name}" for name in modifiers]
    frame = pd.DataFrame({"method": names, "base": "ms", "modifier": modifiers})
    expected = ["dm2", "dm2{ensemble}", "dm2{tuned}", "dm2{ensemble}{tuned}", "dm2{member 1}{tuned}"]
    assert list(in_order(frame)["modifier"]) == expected


def test_csv_keeps_full_precision_and_no_folders(values):
    found = estimates.accuracy(values).assign(variant="model.weights=/home/alice/w.pth")
    text = csv(found)
    assert repr(float(found["mean"].iloc[0])) in text
    assert "alice" not in text
    assert "model.weights=…/w.pth" in text


def entries(*texts):
    return tuple(tables.Entry(text) for text in texts)


def test_latex_escapes_and_is_a_booktabs_table():
    table = tables.Table(
        "t", "50% of a_b", ("Method", "R@1"), ((tables.Entry(r"a_b&\input{x}"), tables.Entry("+1", "[−1, 2]")),)
    )
    text = latex(table)
    assert r"a\_b\&\textbackslash{}input\{x\} & +1 \\" in text
    assert r" & {\tiny [$-$1, 2]} \\" in text
    assert r"\caption{50\% of a\_b.}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


def test_latex_puts_marks_into_letters_and_the_caption(values):
    text = latex(tables.accuracy_table(GLYPHS, "last", estimates.accuracy(values)))
    assert "ms+psd$^{a}$ & 5 & 63.05" in text
    assert "proxyanchor+psd$^{a,b}$ & " in text
    assert r"a: untuned: nothing published. b: unpublished composition.}" in text
    assert "Marks" not in text


def test_latex_escapes_every_special_character():
    assert escape_latex("#$%&_{}~^\\") == r"\#\$\%\&\_\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"


def test_markdown_cells_cannot_leave_their_cell():
    text = markdown(tables.Table("t", "", ("Method", "R@1"), (entries("a|b\n<script>[x](y)", "1"),)))
    assert text.splitlines()[2] == r"| a\|b \<script\>\[x\](y) | 1 |"
    assert escape_markdown("`*_") == r"\`\*\_"


def test_evidence_has_a_star_only_where_the_corrected_p_is_small(values):
    table = tables.evidence_table(GLYPHS, "last", "recall_at_1", comparisons(seed_pairs(values), values))
    rows = {(row[0].text, row[1].text): row for row in table.rows}
    assert list(rows) == [
        ("ms+psd", "ms"),
        ("ms+obdsd", "ms"),
        ("ms+obdsd", "ms+psd"),
        ("proxyanchor+psd", "proxyanchor"),
    ]
    assert rows["ms+obdsd", "ms"][3].text.endswith("*")
    assert not rows["ms+psd", "ms"][3].text.endswith("*")
    assert any("the 4 comparisons of this table" in note for note in table.notes)
    assert any("reach: .063 with 5 pairs. Six pairs are the fewest" in note for note in table.notes)
    found = comparisons(seed_pairs(GLYPHS.of(values)), values)
    found = pick(found, selection="last", metric="recall_at_1").set_index(["method", "to"])
    for pair, row in rows.items():
        expected = found.loc[pair, ["p_holm", "p_sign_flip", "effect_size", "probability_of_improvement"]]
        assert [entry.value for entry in row[4:8]] == pytest.approx(expected.tolist())


def test_one_seed_is_not_tested(tmp_path):
    for name in ("ms", "ms+psd"):
        write_cell(tmp_path, make_cell(name, 0))
    runs = estimates.seed_values(arrange(load_results(tmp_path)))
    found = comparisons(seed_pairs(runs), runs)
    table = tables.evidence_table(GLYPHS, "last", "recall_at_1", found)
    assert [entry.text for entry in table.rows[0][4:8]] == ["–", "–", "–", "–"]
    assert "*" not in "".join(entry.text for entry in table.rows[0])
    assert "Too few pairs for any test." in table.notes
    assert table.notes[-1] == "Fewer than 3 pairs, so nothing can be concluded from: ms+psd against ms (1)."


def test_selections_stand_side_by_side(values):
    table = tables.selection_table(
        GLYPHS, "recall_at_1", estimates.accuracy(values), differences(values), estimates.optimism(values)
    )
    assert table.columns == (
        "Method", "Seeds", "Last epoch", "Best test epoch", "Best test − last", "Gain, last epoch",
        "Gain, best test epoch",
    )  # fmt: skip
    (ms, psd) = table.rows[:2]
    assert ms[5].text == ""  # a base gains nothing over itself
    assert psd[4].value >= 0
    assert psd[3].value - psd[2].value == pytest.approx(psd[4].value)
    gains = pick(GLYPHS.of(differences(values)), method="ms+psd", metric="recall_at_1").set_index("selection")["mean"]
    assert [entry.value for entry in psd[5:]] == pytest.approx([gains["last"], gains["best_test"]])


def test_published_figures_stand_beside_ours(values):
    ours = GLYPHS.of(values).assign(dataset="cub", protocol="resnet50-128")
    table = tables.reproduction_table(reproduction(estimates.accuracy(ours)))
    row = next(row for row in table.rows if (row[0].text, row[2].text) == ("ms", "R@1"))
    assert (row[4].text, row[4].spread) == ("62.80", "± 0.70")
    assert row[6].interval.startswith("[")
    assert row[8].interval.startswith("[")
    assert row[9].text == ""
    other = tables.reproduction_table(reproduction(estimates.accuracy(ours.assign(protocol="conv4-64"))))
    assert other.rows[0][8].text == "–"
    assert other.rows[0][9].text == "protocol resnet50-128, ours conv4-64"


def test_the_matrix_shows_what_is_missing(results, arranged):
    table = coverage_table(arranged, unfinished(Store(results)))
    rows = {row[0].text: [entry.text for entry in row[1:]] for row in table.rows}
    assert table.columns[1:] == (
        "conv4-64 on glyphs", "conv4-64 on omniglot-small",
        "conv4-64 on glyphs, training.epochs=6, validation.classes=0.2",
    )  # fmt: skip
    assert rows["ms"] == ["5", "5", "3"]
    assert rows["proxyanchor+psd"] == ["5", "1", "–"]
    assert rows["ms+dm2"] == ["0/2 (1 f)", "–", "–"]


def test_values_that_datasets_share_stand_once():
    base = {"protocol": "p", "variant": "", "method": "ms+psd", "part": "psd", "implementation": "official"}
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


def compared(*pairs):
    """Comparisons as evidence tables take them: (method, other, pairs, p)."""
    rows = [
        {"protocol": "p", "variant": "", "dataset": "d", "selection": "last", "metric": "recall_at_1", "method": method,
         "base": "ms", "modifier": method.partition("+")[2], "to": to, "to_modifier": to.partition("+")[2], "marks": "",
         "mean": 0.01, "low": 0.0, "high": 0.02, "n": n, "p_t": p, "p_holm": p, "p_sign_flip": p, "effect_size": 1.0,
         "probability_of_improvement": 0.5, "family": sum(own[2] >= 3 for own in pairs)}
        for method, to, n, p in pairs
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_notes_say_what_was_tested_and_what_was_not():
    rows = compared(("ms+psd", "ms", 4, 0.5), ("ms+obdsd", "ms", 4, 0.5), ("ms+obdsd", "ms+psd", 2, math.nan))
    notes = " ".join(tables.evidence_table(Group("p", "", "d"), "last", "recall_at_1", rows).notes)
    assert "for the 2 of the 3 comparisons that have 3 pairs or more" in notes
    assert "nothing can be concluded from: ms+obdsd against ms+psd (2)." in notes


def test_six_pairs_need_no_excuse():
    rows = compared(("ms+psd", "ms", 6, 0.5))
    notes = " ".join(tables.evidence_table(Group("p", "", "d"), "last", "recall_at_1", rows).notes)
    assert "reach: .031 with 6 pairs." in notes
    assert "corrected by Holm's method for one comparison, which leaves it as it is; *: below .05." in notes
    assert "Six pairs are the fewest" not in notes
    assert "sign-flip: exact, two-sided" in notes
    many = " ".join(tables.evidence_table(Group("p", "", "d"), "last", "recall_at_1", rows.assign(n=20)).notes)
    assert "sign-flip: exact up to 16 pairs, else drawn" in many


def ranked(seeds, friedman=0.01, datasets=6):
    names = {"protocol": "p", "variant": "", "selection": "last", "metric": "recall_at_1", "modifier": "", "marks": ""}
    rows = [
        names | {"method": name, "base": name, "iqm": iqm, "low": 0.1, "high": 0.9, "rank": rank, "datasets": datasets,
                 "over": "a, b", "n": 36, "seeds": seeds, "friedman_p": friedman}
        for name, iqm, rank in (("ms", 0.7, 1.0), ("triplet", 0.6, 2.5), ("margin", 0.5, 2.5))
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (ranked(6), "Friedman's test tells some apart (p .010): average ranks differ where they lie 1.35 apart"),
        (ranked(6, friedman=0.3), "Friedman's test (p .300) does not tell any of them apart."),
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


def test_no_cell_of_a_csv_is_a_formula():
    frame = pd.DataFrame({"variant": [""] * 4, "error": ["=HYPERLINK(1)", "-0.5", "+x", None], "mean": [-0.5] * 4})
    lines = csv(frame).splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["'=HYPERLINK(1)", "-0.5", "'+x", ""]
    assert lines[1].endswith(",-0.5")
