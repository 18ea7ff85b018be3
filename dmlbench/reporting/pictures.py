"""Figures on disk as PNG and SVG, and inlined into a page; tables as Markdown and CSV; sheets of a dataset's images.

Images in an SVG are made light: matplotlib writes four bytes a pixel, however few colours they have.
"""

import base64
import io
import os
import re
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dmlbench.analysis.groups import without_paths
from dmlbench.data.family import LabelledImages, Side
from dmlbench.errors import UserError, printable
from dmlbench.reporting.naming import for_files
from dmlbench.reporting.style import COLUMN, GRID, INK, MUTED, PALETTE, PAPER, RC, TUNED, Plot, Tip, plotting
from dmlbench.reporting.tables.table import TEXT_COLUMNS, Entry, Table

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
    return inert(frame.assign(variant=frame["variant"].map(without_paths)) if "variant" in frame else frame)


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
    """Text with Markdown's and HTML's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>|~#&])", r"\\\1", " ".join(text.split()))


def _without_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def _markdown_entry(entry: Entry) -> str:
    # An interval holds only figures, and its brackets start no link.
    return " ".join(filter(None, (escape_markdown(entry.text), entry.spread, entry.interval)))


EMBEDDED = re.compile(r'(?<=data:image/png;base64,)[^"]+')


def with_palettes(svg: str) -> str:
    """The same SVG with its PNGs of up to 256 opaque colours stored with a palette: a third of the size, no loss."""
    return EMBEDDED.sub(lambda found: _with_palette(found[0]), svg)


def _with_palette(encoded: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
        image = opened.convert("RGBA")
    opaque, written = image.convert("RGB"), io.BytesIO()
    if image.getchannel("A").getextrema() != (255, 255) or opaque.getcolors(256) is None:
        return encoded
    opaque.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


# What the page's style sheet sets for light and for dark.
PAGE_COLOURS = {
    INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)", TUNED: "var(--tuned)",
} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(PALETTE)
}  # fmt: skip


NO_TIPS: Mapping[str, Tip] = {}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it; `slug` names its files, `svg` is safe markup.

    `inches` is its width: a wide one spans the page, others one column.
    """

    slug: str
    caption: str
    label: str
    svg: Markup
    data: pd.DataFrame
    inches: float = COLUMN

    @property
    def wide(self) -> bool:
        """Whether it needs more than a column."""
        return self.inches > COLUMN


def save(plot: Plot, folder: Path) -> Picture:
    """Write `<slug>.png`, `.svg` and the data behind it, `.csv`, into a folder; the same plot gives the same bytes.

    Raises:
        OSError: where the folder cannot be written.
    """
    path = folder / f"{plot.slug}.svg"
    # The salt makes matplotlib's identifiers a function of the figure's name instead of chance.
    with plotting(RC | {"svg.hashsalt": plot.slug}):
        _draw(plot.figure, folder / f"{plot.slug}.png", path)
    data = for_files(plot.data).reset_index(drop=True)
    (folder / f"{plot.slug}.csv").write_text(inert(data), encoding="utf-8")
    drawn = with_palettes(path.read_text(encoding="utf-8"))
    path.write_text(drawn, encoding="utf-8")
    svg = inline(drawn, plot.slug, plot.label, plot.tips)
    return Picture(plot.slug, plot.caption, plot.label, svg, data, float(plot.figure.get_figwidth()))


def _draw(figure: Figure, png: Path, svg: Path) -> None:
    """Lay a figure out once and draw each file once: `savefig` would do both twice per file."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    figure.set_dpi(rcParams["savefig.dpi"])
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})


def inline(svg: str, prefix: str, label: str, tips: Mapping[str, Tip] = NO_TIPS) -> Markup:
    """A figure's SVG as an element of an HTML page.

    Identifiers and the references to them get a prefix, because every figure calls its parts alike; the page's
    colours replace the figure's; the element carries its content in words.

    Args:
        svg: A document as matplotlib writes it.
        prefix: Unique within the page.
        label: What a screen reader says in one sentence; the figure's data describe it.
        tips: By the identifier of a mark what a page says of it.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body, count=2)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r'href="#', f'href="#{prefix}-', body)
    for colour, variable in PAGE_COLOURS.items():
        body = body.replace(colour, variable)
    body = re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", body, count=1)
    for mark, tip in tips.items():
        said = (
            f'<g id="{prefix}-{mark}" data-method="{escape(tip.method)}" data-dataset="{escape(tip.dataset)}">'
            f"<title>{escape(tip.text)}</title>"
        )
        body = body.replace(f'<g id="{prefix}-{mark}">', said, 1)
    opening = f'<svg role="img" aria-label="{escape(label)}" aria-details="data-{prefix}"'
    return Markup(body.replace("<svg", opening, 1).strip())  # noqa: S704 - matplotlib escaped every name in it


CLASSES, IMAGES = 6, 8  # of either side
INCHES = 1.0
MARK = {"Comment": "contact sheet drawn by dmlbench"}  # in the PNG: only a file that says so is drawn over


def draw_contact_sheet(title: str, sides: tuple[Side, Side], path: Path, seed: int = 0) -> None:
    """Write a PNG: a row a class, training classes above, test classes below.

    Args:
        title: Heads the sheet.
        sides: Training and test classes.
        path: The PNG to write.
        seed: Of the choice of classes and images.
    """
    rng = np.random.default_rng(seed)
    rows = [
        (name, side, label) for name, side in zip(("train", "test"), sides, strict=True) for label in _some(side, rng)
    ]
    with plotting(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = _sheet(title, rows, rng)
        try:
            figure.savefig(path, format="png", bbox_inches="tight", metadata=MARK)
        except OSError as error:
            raise UserError(f"--sheet {path}: cannot be written ({error.strerror})") from error


def _sheet(title: str, rows: list[tuple[str, Side, int]], rng: np.random.Generator) -> Figure:
    figure = Figure(figsize=(IMAGES * INCHES + 3, len(rows) * INCHES + 0.6), layout="constrained", dpi=110)
    figure.suptitle(title)
    axes = figure.subplots(len(rows), IMAGES, squeeze=False)
    for line, (name, side, label) in zip(axes, rows, strict=True):
        members = np.flatnonzero(side.labels == label)
        for axis, index in zip(line, rng.permutation(members)[:IMAGES].tolist(), strict=False):
            pixels = _pixels(side, index)
            if pixels is not None:
                axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.axis("off")
        text = f"{name}\n{textwrap.shorten(printable(side.class_names[label]), 36, placeholder=' ...')}"
        line[0].text(-0.08, 0.5, text, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    return figure


def _some(side: Side, rng: np.random.Generator) -> list[int]:
    return sorted(rng.permutation(len(side.class_names))[:CLASSES].tolist())


def _pixels(side: Side, index: int) -> NDArray[np.uint8] | None:
    """One image as imshow takes it; None where it cannot be decoded."""
    if isinstance(side, LabelledImages):
        image: NDArray[np.uint8] = side.images[index]
        return image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    path = side.root / side.paths[index]
    if not path.is_file():  # a pipe would be waited for without end
        return None
    try:
        with Image.open(path) as opened:
            opened.thumbnail((256, 256))
            return np.asarray(opened.convert("RGB"))
    except Exception:  # noqa: BLE001 - decoders of damaged files raise nearly anything; `check` names them
        return None


def check_sheet(path: Path) -> None:
    """Raise UserError where a contact sheet cannot be written, or would be written over anything but another one."""
    if path.suffix.lower() != ".png" or not path.absolute().parent.is_dir():
        raise UserError(f"--sheet {path}: must be a .png in a folder that exists")
    if os.path.lexists(path) and not _is_sheet(path):
        raise UserError(f"--sheet {path}: exists and is no contact sheet of dmlbench", hint="name another, or move it")


def _is_sheet(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            return MARK.items() <= opened.info.items()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
