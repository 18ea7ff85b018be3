"""Tables as Markdown, LaTeX (booktabs) and CSV."""

import re

import pandas as pd

from dmlbench.analysis.groups import without_paths
from dmlbench.report.naming import MINUS
from dmlbench.report.tables.notes import mark_signs, signed
from dmlbench.report.tables.table import TEXT_COLUMNS, Entry, Table

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "×": r"$\times$", "±": r"$\pm$", "…": r"\ldots{}", MINUS: "$-$", "\n": " ",
    "▲": r"$\uparrow$", "▼": r"$\downarrow$", "○": r"$\circ$", "“": "``", "”": "''",
}  # fmt: skip
FORMULA = re.compile(r"[=+@\t\r-](?![\d.]+(?:e[+-]?\d+)?$)")  # a negative number is a number
DIGITS = "%.10g"
BROAD = {"Source": "p{24mm}", "Not compared": "p{19mm}"}  # columns of sentences


def markdown(table: Table) -> str:
    """A Markdown table (GitHub's dialect) with its notes below; the title is left to the page."""
    columns = table.columns
    rule = ["---" if column in TEXT_COLUMNS else "---:" for column in columns]
    rows = [[_markdown_entry(entry) for entry in row] for row in table.rows]
    lines = [[escape_markdown(column) for column in columns], rule, *rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([body, *(escape_markdown(note) for note in table.notes)])


def latex(table: Table) -> str:
    r"""A LaTeX table for `\usepackage{booktabs}`: intervals on a line of their own, notes and marks in the caption."""
    columns, rows, signs = _with_signs(table)
    lines = [" & ".join(map(escape_latex, columns)) + r" \\", r"\midrule"]
    lines += [line for row, letters in rows for line in _latex_row(row, letters)]
    notes = [f"{table.title}.", *table.notes, *(f"{letter}: {mark}." for mark, letter in signs.items())]
    head = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{2pt}",
        f"\\caption{{{escape_latex(' '.join(notes))}}}",
        f"\\label{{tab:{table.slug}}}",
    ]
    alignment = "".join(BROAD.get(column, "l" if column in TEXT_COLUMNS else "r") for column in columns)
    body = [f"\\begin{{tabular}}{{{alignment}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*head, *body, r"\end{table}"]) + "\n"


def csv(frame: pd.DataFrame) -> str:
    """A tidy CSV; settings that name a user's folders are cut to their last part."""
    return inert(frame.assign(variant=frame["variant"].map(without_paths)))


def inert(frame: pd.DataFrame) -> str:
    """A CSV in which no text is a formula to a spreadsheet: what begins like one gets an apostrophe.

    Numbers have the digits on which processors agree: the last ones of a logarithm depend on the instructions.
    """
    texts = frame.select_dtypes(["object", "string"])
    safe = {str(column): texts[column].map(_without_formula) for column in texts}
    return frame.assign(**safe).to_csv(index=False, lineterminator="\n", float_format=DIGITS)


def brief_marks(marks: str) -> str:
    """Marks without their reasons, `untuned` for `untuned: nothing published`: the page explains them once."""
    return ", ".join(mark.partition(":")[0] for mark in marks.split("; "))


def short(value: object) -> str:
    """A value of a tidy table as a page shows it: six significant digits, empty where there is none."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"  # noqa: PLR0124 - NaN
    return str(value)


def escape_latex(text: str) -> str:
    """Text in which LaTeX's special characters stand for themselves."""
    return "".join(_latex_character(character) for character in text)


def escape_markdown(text: str) -> str:
    """Text in which Markdown's and HTML's special characters stand for themselves."""
    return re.sub(r"([\\`*_\[\]<>|~#&])", r"\\\1", " ".join(text.split()))


def _with_signs(table: Table) -> tuple[tuple[str, ...], list[tuple[tuple[Entry, ...], str]], dict[str, str]]:
    """Columns and rows without the marks, each row with its letters: a text width has no room for the marks."""
    if table.columns[-1] != "Marks":
        return table.columns, [(row, "") for row in table.rows], {}
    signs = mark_signs(row[-1].text for row in table.rows)
    return table.columns[:-1], [(row[:-1], signed(row[-1].text, signs)) for row in table.rows], signs


def _without_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def _latex_row(row: tuple[Entry, ...], letters: str) -> list[str]:
    name, *cells = (escape_latex(entry.text) for entry in row)
    name = "{}" * name.startswith(("[", "*")) + name  # after a line's end these would be arguments of it
    lines = [" & ".join([f"{name}$^{{{letters}}}$" if letters else name, *cells]) + r" \\"]
    lines += [
        " & ".join(f"{{\\tiny {escape_latex(text)}}}" if text else "" for text in small) + r" \\"
        for small in ([entry.spread for entry in row], [entry.interval for entry in row])
        if any(small)
    ]
    return lines + ([r"\addlinespace[2pt]"] if any(entry.interval for entry in row) else [])


def _latex_character(character: str) -> str:
    """Other letters of Latin-1 stand for themselves; what pdflatex does not know becomes its code point."""
    if character in LATEX:
        return LATEX[character]
    known = character.isascii() or (character.isalpha() and "\xc0" <= character <= "\xff")
    return character if known else f"[U+{ord(character):04X}]"


def _markdown_entry(entry: Entry) -> str:
    # An interval holds only figures, and its brackets start no link.
    return " ".join(filter(None, (escape_markdown(entry.text), entry.spread, entry.interval)))
