import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from dmlbench.analysis.estimates import accuracy, seed_values
from dmlbench.analysis.groups import Group
from dmlbench.analysis.published import reproduction
from dmlbench.reporting.latex import Choice, chosen, latex
from dmlbench.reporting.naming import named
from dmlbench.reporting.tables import Entry, Table, reproduction_table
from dmlbench.results.frames import load_results
from tests.typed import NONE

DOCUMENT = r"""\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs,longtable}
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


BEYOND = re.compile(r"(?:Overfull .box \(|Float too large for page by )([\d.]+)pt")


def beyond(log):
    """By how many points anything is larger than its page or its line."""
    return max(map(float, BEYOND.findall(log)), default=0.0)


def whole(files, folder):
    """A document of these tables, which it has beside it: LaTeX reads no path with a percent sign."""
    for path in files:
        shutil.copy(path, folder)
    return "\n".join(f"\\input{{{path.name}}}\\clearpage" for path in files)


@needs_latex
def test_every_table_of_a_report_compiles_and_fits_a_page(report, tmp_path):
    files = sorted((report / "tables").glob("*.tex"))
    assert len(files) > 20
    log = compiled(tmp_path, whole(files, tmp_path))
    assert len(re.findall(r"\[\d+", log)) >= len(files) - 1
    assert beyond(log) < 4


@needs_latex
@pytest.mark.parametrize("name", ["glyphs", "omniglot-small", "photographs"])
def test_every_table_of_a_committed_report_fits_a_page(name, tmp_path):
    files = sorted((Path(__file__).parents[2] / "reports" / name / "tables").glob("*.tex"))
    assert files
    assert beyond(compiled(tmp_path, whole(files, tmp_path))) < 4


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
    """The bodies of all tables: (their column heads, their lines of text); a longtable's heads count once."""
    text = re.sub(r"\\endfirsthead\n.*?\\endfoot\n", "", text, flags=re.DOTALL)
    ends = r"\\bottomrule|\\end\{longtable\}"
    found = re.findall(rf"\\toprule\n(.*?) \\\\\n\\midrule\n(.*?)(?:{ends})", text, re.DOTALL)
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
    assert ("longtable" in text) == (name not in ("few", "many columns"))
    assert ("(part" in text) == (len(parts(text)) > 1)


CHOSEN = Choice(rows=("method001", "method003"), metrics=("recall_at_2",))


def test_a_choice_of_rows_and_metrics_is_all_a_table_has():
    (head, lines), *others = parts(latex(chosen(large_table(5, 4), CHOSEN)))
    assert others == []
    assert head == ["Method", "R@2"]
    assert [line.partition("$")[0] for line in lines if line.startswith("method")] == ["method001", "method003"]


def test_a_rank_goes_with_its_metric():
    columns = ("Method", "Seeds", "R@1", "Rank", "MAP@R", "Rank", "Marks")
    table = Table("t", "Board", columns, (tuple(Entry(text) for text in ("method001", *"123456")),))
    found = chosen(table, Choice(metrics=("map_at_r",)))
    assert found.columns == ("Method", "Seeds", "MAP@R", "Rank", "Marks")
    assert [entry.text for entry in found.rows[0]] == ["method001", "1", "4", "5", "6"]


def test_tables_without_methods_or_metrics_stay_whole():
    table = Table("t", "Claim", ("Base", "Difference"), ((Entry("ms"), Entry("1")),))
    assert chosen(table, CHOSEN) == table


@needs_latex
@pytest.mark.parametrize("name", LARGE)
def test_large_tables_fit_their_pages(name, tmp_path):
    log = compiled(tmp_path, latex(LARGE[name]))
    assert beyond(log) < 4
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
