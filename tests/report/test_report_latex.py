import os
import re
import shutil
import subprocess

import pandas as pd
import pytest

from dmlbench.analysis.estimates import accuracy, seed_values
from dmlbench.analysis.groups import Group, arrange
from dmlbench.analysis.published import reproduction
from dmlbench.report.formats import latex
from dmlbench.report.tables import Entry, Table, reproduction_table
from dmlbench.results import load_results

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


@needs_latex
def test_hostile_names_compile(tmp_path):
    names = (r"\input{x}", "50% & $x$ #1_{a}^{b} ~", "café «×» ± − – … ▲ α 猫", "a|b<c>[d]", "*[x]")
    rows = tuple((Entry(name), Entry("1.00", "[0, 2]"), Entry("a mark; another")) for name in names)
    compiled(tmp_path, latex(Table("t", "Names % of & all", ("Method", "R@1", "Marks"), rows, ("A note.",))))


@needs_latex
def test_published_figures_compile_and_fit_a_page(results, tmp_path):
    runs = Group("conv4-64", "", "glyphs").of(seed_values(arrange(load_results(results)))).assign(dataset="cub")
    ours = [accuracy(runs.assign(protocol=name)) for name in ("resnet50-128", "conv4-64")]
    assert "Overfull \\hbox" not in compiled(tmp_path, latex(reproduction_table(reproduction(pd.concat(ours)))))
