"""Tables as LaTeX (booktabs; longtable for what is higher than a page): no row and no column is lost.

TeX alone knows widths, and a report has none at hand. So they are summed from those of Computer Modern, which is what
a document has that loads no other font; others of its size are about as wide.

pandas' Styler neither splits a table nor breaks a cell into lines, and at a minus sign, ▼, a letter beyond Latin-1 or a
row that begins with `[` pdflatex stops in what it writes.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dmlbench.errors import unknown_name
from dmlbench.reporting.naming import MINUS, NAMES, metric_name
from dmlbench.reporting.tables.table import TEXT_COLUMNS, Entry, Table, mark_signs, signed

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "×": r"$\times$", "±": r"$\pm$", "…": r"\ldots{}", MINUS: "$-$", "\n": " ",
    "▲": r"$\uparrow$", "▼": r"$\downarrow$", "○": r"$\circ$", "“": "``", "”": "''",
}  # fmt: skip
MM = 2.845  # points
BROAD = {"Source": 24 * MM, "Not compared": 19 * MM}  # columns of sentences
# A page of A4 with margins of 2 cm holds 484 x 730 points of text, one of US letter 502 x 680.
WIDTH, HEIGHT = 480.0, 600.0
BROADEST = 150.0  # of a column: what is longer is broken into lines
# Points of a character in \footnotesize, of a document of 10 points; in \tiny and in \normalsize by these factors.
WIDTHS = {
    2.4: "il!',.:;[]`|", 2.6: "fj", 2.9: "- ", 3.1: "I_", 3.4: "rst()", 3.8: "cez", 4.1: "?", 4.5: "kqvxy",
    4.8: "bdhnpuS", 4.3: "0123456789ago\"$*/\\^{}~–▲▼○“”", 4.4: "J", 5.2: "Z", 5.4: "L", 5.6: "F", 5.8: "EP", 6.1: "B",
    6.2: "wCT", 6.3: "R", 6.4: "AHNUVXY", 6.5: "D", 6.7: f"GKOQ&+<=>@×±{MINUS}", 7.1: "m#%", 7.8: "M", 8.8: "W",
    11.4: "…",
}  # fmt: skip
CHARACTERS = {character: width for width, characters in WIDTHS.items() for character in characters}
TINY, NORMAL, LETTER = 0.87, 1.2, 3.6
PIECE = re.compile(
    r"[A-Za-z0-9]{1,12}[^A-Za-z0-9]{0,3}|[^A-Za-z0-9]{1,8}"
)  # of a long word, after which it may be broken
STEPS = 40  # in which a limit is looked for that fills the parts evenly
METRIC = re.compile(r"R@\d+|" + "|".join(map(re.escape, NAMES.values())))
LETTERS = 8  # marks in one cell
LINE, CAPTION_LINE, RULES, SEPARATION, COLUMN_SEPARATION = 9.5, 12.0, 24.0, 2.0, 4.0
LONGEST_CAPTION = 15 * CAPTION_LINE


@dataclass(frozen=True)
class _Column:
    """How a column is set: its width in points, and whether what is longer is broken into lines."""

    name: str
    width: float
    broken: bool

    @property
    def alignment(self) -> str:
        if self.broken:
            return f"p{{{self.width / MM:.0f}mm}}"
        return "l" if self.name in TEXT_COLUMNS else "r"


@dataclass(frozen=True)
class _Row:
    entries: tuple[Entry, ...]
    letters: str


@dataclass(frozen=True)
class Choice:
    """The methods and metrics that LaTeX tables show; empty for all."""

    rows: Collection[str] = ()
    metrics: Collection[str] = ()

    def check(self, names: Collection[str], metrics: Collection[str]) -> None:
        """Raise UserError for a method or a metric that no table has."""
        for what, own, known in (("method", self.rows, names), ("metric", self.metrics, metrics)):
            if unknown := sorted(set(own) - set(known)):
                raise unknown_name(what, unknown[0], sorted(known), where="--tables")


def chosen(table: Table, choice: Choice) -> Table:
    """A table of methods with the rows and metrics of a choice; another one as it is."""
    if table.columns[0] != "Method":
        return table
    wanted = set(map(metric_name, choice.metrics))
    kept, shown = [], True
    for index, name in enumerate(table.columns):
        if is_metric := METRIC.fullmatch(name) is not None:
            shown = not wanted or name in wanted
        elif name != "Rank":  # which is that of the metric before it
            shown = True
        kept += [index] if shown or not (is_metric or name == "Rank") else []
    rows = [row for row in table.rows if not choice.rows or row[0].text in choice.rows]
    return replace(
        table,
        columns=tuple(table.columns[index] for index in kept),
        rows=tuple(tuple(row[index] for index in kept) for row in rows),
    )


def latex(table: Table) -> str:
    r"""A LaTeX table for `\usepackage{booktabs,longtable}`: intervals on a line of their own, notes in the caption.

    One that is higher than a page is a longtable, which TeX breaks between methods; one that is wider becomes several:
    each repeats the columns that name a row, and the first has the notes.
    """
    names, rows, signs = _with_signs(table)
    columns = [_column(index, name, rows) for index, name in enumerate(names)]
    notes = [*table.notes, *(f"{letter}: {mark}." for mark, letter in signs.items())]
    caption = " ".join([f"{table.title}.", *notes])
    apart = _caption_height(caption) > LONGEST_CAPTION
    room = HEIGHT - RULES - LINE - _caption_height(table.title if apart else caption)
    long = sum(_height(row, columns) for row in rows) > room
    spans = _spans(columns)
    written = [
        _part(table, columns, (indices, rows), (index, len(spans)), () if apart or index > 1 else notes, long=long)
        for index, indices in enumerate(spans, start=1)
    ]
    if apart:  # a caption of that length is no caption; a paragraph can continue on the next page
        written.append(f"\n\\noindent{{\\sloppy\\footnotesize {_prose(' '.join(notes))}\\par}}\n")
    return "".join(written)


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_character(character) for character in text)


def _part(
    table: Table,
    columns: Sequence[_Column],
    part: tuple[Sequence[int], Sequence[_Row]],
    number: tuple[int, int],
    notes: Sequence[str],
    *,
    long: bool,
) -> str:
    indices, rows = part
    shown = [columns[index] for index in indices]
    which = " (part {} of {})".format(*number) if number[1] > 1 else ""
    caption = f"\\caption{{{_prose(' '.join([f'{table.title}{which}.', *notes]))}}}"
    label = f"\\label{{tab:{table.slug}{f'-{number[0]}' if number[0] > 1 else ''}}}"
    alignment = "".join(column.alignment for column in shown)
    head = [r"\toprule", " & ".join(_text(column.name, column) for column in shown) + r" \\", r"\midrule"]
    body = [line for row in rows for line in _row(row, shown, indices)]
    lines = [
        r"\begin{table}", rf"\centering{SMALL}", caption, label, f"\\begin{{tabular}}{{{alignment}}}", *head, *body,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ]  # fmt: skip
    if long:
        lines = [
            rf"{{{SMALL}", r"\setlength{\LTcapwidth}{\textwidth}", f"\\begin{{longtable}}{{{alignment}}}",
            caption + label + r" \\", *head, r"\endfirsthead", *head, r"\endhead", r"\bottomrule", r"\endfoot", *body,
            r"\end{longtable}}", "",
        ]  # fmt: skip
    return "\n".join(lines)


SMALL = r"\footnotesize\setlength{\tabcolsep}{2pt}"


def _row(row: _Row, columns: Sequence[_Column], indices: Sequence[int]) -> list[str]:
    """The lines of a row; no page ends between them."""
    shown = [row.entries[index] for index in indices]
    name, *cells = (_text(entry.text, column) for entry, column in zip(shown, columns, strict=True))
    name = "{}" * name.startswith(("[", "*")) + name  # after a line's end these would be arguments of it
    lines = [" & ".join([name + _superscript(row.letters), *cells])]
    lines += [
        " & ".join(f"{{\\tiny {escape_latex(text)}}}" if text else "" for text in small)
        for small in ([entry.spread for entry in shown], [entry.interval for entry in shown])
        if any(small)
    ]
    ended = [f"{line} {end}" for line, end in zip(lines, [r"\\*"] * (len(lines) - 1) + [r"\\"], strict=True)]
    return ended + ([r"\addlinespace[2pt]"] if any(entry.interval for entry in row.entries) else [])


def _superscript(letters: str) -> str:
    """Letters of marks; a line may end after some of them."""
    own = letters.split(",") if letters else []
    groups = [",".join(own[first : first + LETTERS]) for first in range(0, len(own), LETTERS)]
    return r"\allowbreak{}".join(f"$^{{{group}{',' * (group != groups[-1])}}}$" for group in groups)


def _with_signs(table: Table) -> tuple[tuple[str, ...], list[_Row], dict[str, str]]:
    """Columns and rows without the marks, each row with its letters: a text width has no room for the marks."""
    if table.columns[-1] != "Marks":
        return table.columns, [_Row(row, "") for row in table.rows], {}
    signs = mark_signs(row[-1].text for row in table.rows)
    return table.columns[:-1], [_Row(row[:-1], signed(row[-1].text, signs)) for row in table.rows], signs


def _column(index: int, name: str, rows: Sequence[_Row]) -> _Column:
    if name in BROAD:
        return _Column(name, BROAD[name], broken=True)
    widths = [_width(name)]
    for row in rows:
        entry, letters = row.entries[index], LETTER * len(row.letters) if index == 0 else 0.0
        widths += [_width(entry.text) + letters, TINY * _width(entry.spread), TINY * _width(entry.interval)]
    return _Column(name, min(max(widths), BROADEST), broken=max(widths) > BROADEST)


def _spans(columns: Sequence[_Column]) -> list[list[int]]:
    """The columns of each part, by their indices: those that name a row, and about as many others in each part."""
    fewest = len(_filled(columns, WIDTH))
    limits = (WIDTH * share / STEPS for share in range(STEPS // 2, STEPS))
    even = (spans for limit in limits if len(spans := _filled(columns, limit)) == fewest)
    return next(even, _filled(columns, WIDTH))


def _filled(columns: Sequence[_Column], limit: float) -> list[list[int]]:
    """As many columns in a part as there is room for, and one at least."""

    def width(indices: Sequence[int]) -> float:
        return sum(columns[index].width + COLUMN_SEPARATION for index in indices)

    keys = [0]
    while keys[-1] + 1 < len(columns) and columns[keys[-1] + 1].name in TEXT_COLUMNS and width(keys) < WIDTH / 3:
        keys.append(keys[-1] + 1)
    spans = [list(keys)]
    for index in range(len(keys), len(columns)):
        if len(spans[-1]) > len(keys) and width([*spans[-1], index]) > limit:
            spans.append(list(keys))
        spans[-1].append(index)
    return spans


def _height(row: _Row, columns: Sequence[_Column]) -> float:
    lines = 1
    for index, (entry, column) in enumerate(zip(row.entries, columns, strict=True)):
        if column.broken:  # a line is never quite full
            letters = LETTER * len(row.letters) if index == 0 else 0.0
            lines = max(lines, math.ceil(1.3 * (_width(entry.text) + letters) / column.width))
    lines += any(entry.spread for entry in row.entries) + any(entry.interval for entry in row.entries)
    return LINE * lines + SEPARATION


def _caption_height(text: str) -> float:
    return CAPTION_LINE * (1 + math.ceil(NORMAL * _width(text) / WIDTH))


def _width(text: str) -> float:
    return sum(CHARACTERS.get(character) or _foreign_width(character) for character in text)


def _foreign_width(character: str) -> float:
    return 6.5 if len(_character(character)) == 1 else 5.0 * len(_character(character))


def _text(text: str, column: _Column) -> str:
    """An entry; in a column of broken lines a word that is wider than it may be broken, too."""
    if not column.broken:
        return escape_latex(text)
    return _prose(text, column.width / 2)


def _prose(text: str, longest: float = WIDTH / 5) -> str:
    """Text of several lines; a word that is longer than this may be broken."""
    return " ".join(escape_latex(word) if _width(word) < longest else _breakable(word) for word in text.split())


def _breakable(word: str) -> str:
    return r"\allowbreak{}".join(map(escape_latex, PIECE.findall(word)))


def _character(character: str) -> str:
    """Other letters of Latin-1 are kept; what pdflatex does not know becomes its code point."""
    if character in LATEX:
        return LATEX[character]
    known = character.isprintable() and (character.isascii() or (character.isalpha() and "\xc0" <= character <= "\xff"))
    return character if known else f"[U+{ord(character):04X}]"
