import os
import re
import shutil
import subprocess

import pandas as pd
import pytest

from dmlbench.analysis.estimates import accuracy, seed_values
from dmlbench.analysis.groups import Group
from dmlbench.analysis.published import reproduction
from dmlbench.reporting.latex import latex
from dmlbench.reporting.naming import named
from dmlbench.reporting.tables import Entry, Table, reproduction_table
from dmlbench.results.frames import load_results
from tests.typed import NONE

DOCUMENT = r"""\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""

needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None and not os.environ.get("DMLBENCH_REQUIRE_LATEX"),
    reason="pdflatex is not installed",
)


def compiled(folder, content):
    """The log of a document, compiled where a warning of LaTeX's own is no error, but an error is."""
    (folder / "all.tex").write_text(DOCUMENT % content, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=folder,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "all.pdf").is_file()
    return (folder / "all.log").read_text(encoding="utf-8", errors="replace")


@needs_latex
def test_every_table_of_a_report_compiles_and_fits_a_page(report, tmp_path):
    files = sorted((report / "tables").glob("*.tex"))
    assert len(files) > 20
    log = compiled(tmp_path, "\n".join(f"\\input{{{path}}}\\clearpage" for path in files))
    assert len(re.findall(r"\[\d+", log)) >= len(files) - 1
    assert "Overfull \\hbox" not in log


def large_table(rows, columns, *, marks=3, name="method{:03}", notes=("A note.",)):
    """Every figure is one of its own, with an interval and a spread; every row has a mark of its own, modulo some."""
    body = [
        (Entry(name.format(row)), *(Entry(f"{row}.{column:02}", "[60.12, 62.80] n = 5", spread="± 1.00")
         for column in range(columns)), Entry(f"mark {row % marks}; another"))
        for row in range(rows)
    ]  # fmt: skip
    return Table(
        "t", "Accuracy", ("Method", *(f"R@{column}" for column in range(columns)), "Marks"), tuple(body), notes
    )


LARGE = {
    "many rows": large_table(90, 7),
    "many columns": large_table(5, 40),
    "both": large_table(60, 25),
    "few": large_table(3, 3),
    "long names": large_table(40, 9, name="ms+obdsd{{distillation.lambda={}, training.learning-rate=0.00025, tau=1}}"),
    "one long word": large_table(40, 9, name="a" * 150 + "{}"),
    "a mark a row": large_table(70, 5, marks=70),
    "long notes": large_table(30, 5, notes=("Of these nothing can be concluded: " + "ms+obdsd (2), " * 600,)),
}


def parts(text):
    """The bodies of all tables: (their column heads, their lines of text)."""
    found = re.findall(r"\\toprule\n(.*?) \\\\\n\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
    return [(head.split(" & "), body.splitlines()) for head, body in found]


@pytest.mark.parametrize("name", LARGE)
def test_no_row_and_no_column_of_a_large_table_is_lost(name):
    table = LARGE[name]
    text = latex(table)
    figures = [figure for _, lines in parts(text) for line in lines for figure in re.findall(r"\d+\.\d\d(?= )", line)]
    expected = [entry.text for row in table.rows for entry in row[1:-1]]
    own = [figure for figure in figures if figure not in ("60.12", "62.80", "1.00")]
    assert sorted(own) == sorted(figure for figure in expected if figure not in ("60.12", "62.80", "1.00"))
    assert all(head[0] == "Method" for head, _ in parts(text))
    assert text.count("A note.") + text.count("Of these nothing") == 1
    assert (name == "few") == (len(parts(text)) == 1 and "(part" not in text)


@needs_latex
@pytest.mark.parametrize("name", LARGE)
def test_large_tables_fit_their_pages(name, tmp_path):
    log = compiled(tmp_path, latex(LARGE[name]))
    beyond = [
        float(points) for points in re.findall(r"(?:Overfull .box \(|Float too large for page by )([\d.]+)pt", log)
    ]
    assert max(beyond, default=0.0) < 4
    assert "Too many unprocessed floats" not in log


@needs_latex
def test_hostile_names_compile(tmp_path):
    names = (r"\input{x}", "50% & $x$ #1_{a}^{b} ~", "café «×» ± − – … ▲ α 猫", "a|b<c>[d]", "*[x]")
    rows = tuple((Entry(name), Entry("1.00", "[0, 2]"), Entry("a mark; another")) for name in names)
    compiled(tmp_path, latex(Table("t", "Names % of & all", ("Method", "R@1", "Marks"), rows, ("A note.",))))


@needs_latex
def test_published_figures_compile_and_fit_a_page(results, tmp_path):
    runs = Group("conv4-64", NONE, "glyphs").of(seed_values(load_results(results))).assign(dataset="cub")
    ours = [accuracy(runs.assign(protocol=name)) for name in ("resnet50-128", "conv4-64")]
    assert "Overfull \\hbox" not in compiled(tmp_path, latex(reproduction_table(named(reproduction(pd.concat(ours))))))
