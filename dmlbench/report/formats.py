"""Tables as Markdown and CSV."""

import re

import pandas as pd

from dmlbench.analysis.groups import without_paths
from dmlbench.report.tables.table import TEXT_COLUMNS, Entry, Table

FORMULA = re.compile(r"[=+@\t\r-](?![\d.]+(?:e[+-]?\d+)?$)")  # a negative number is a number
DIGITS = "%.10g"


def markdown(table: Table) -> str:
    """A Markdown table (GitHub's dialect) with its notes below; the title is left to the page."""
    columns = table.columns
    rule = ["---" if column in TEXT_COLUMNS else "---:" for column in columns]
    rows = [[_markdown_entry(entry) for entry in row] for row in table.rows]
    lines = [[escape_markdown(column) for column in columns], rule, *rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([body, *(escape_markdown(note) for note in table.notes)])


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


def escape_markdown(text: str) -> str:
    """Text in which Markdown's and HTML's special characters stand for themselves."""
    return re.sub(r"([\\`*_\[\]<>|~#&])", r"\\\1", " ".join(text.split()))


def _without_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def _markdown_entry(entry: Entry) -> str:
    # An interval holds only figures, and its brackets start no link.
    return " ".join(filter(None, (escape_markdown(entry.text), entry.spread, entry.interval)))
