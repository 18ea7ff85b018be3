import math

import pandas as pd

from dmlbench.reporting import tables
from dmlbench.reporting.latex import escape_latex, latex
from dmlbench.reporting.naming import for_files, metric_name, percent, points, table_metrics
from dmlbench.reporting.pictures import csv, escape_markdown, markdown
from dmlbench.specs.overrides import Settings
from tests.reporting.frames import GLYPHS, accuracy


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


def test_csv_keeps_ten_digits_and_no_folders(values):
    found = accuracy(values).assign(overrides=Settings(("model.weights=/home/alice/w.pth",)))
    text = csv(for_files(found))
    assert f",{found['mean'].iloc[0]:.10g}," in text
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
    text = latex(tables.accuracy_table(GLYPHS, "last", accuracy(values)))
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


def test_no_cell_of_a_csv_is_a_formula():
    frame = pd.DataFrame({"variant": [""] * 4, "error": ["=HYPERLINK(1)", "-0.5", "+x", None], "mean": [-0.5] * 4})
    lines = csv(frame).splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["'=HYPERLINK(1)", "-0.5", "'+x", ""]
    assert lines[1].endswith(",-0.5")
