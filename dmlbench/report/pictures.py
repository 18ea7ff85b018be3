"""Figures on disk as PNG and SVG, and inlined into a page."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dmlbench.plotting import plotting
from dmlbench.report.canvas import Plot
from dmlbench.report.embedded import with_palettes
from dmlbench.report.formats import inert
from dmlbench.report.style import COLUMN, GRID, INK, MUTED, PALETTE, PAPER, RC

# What the page's style sheet sets for light and for dark.
PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{place})" for place, colour in enumerate(PALETTE)
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it; `slug` names its files, `svg` is safe markup.

    `wide` figures span a page, others one column.
    """

    slug: str
    caption: str
    alt: str
    svg: Markup
    data: pd.DataFrame
    wide: bool = False


def save(plot: Plot, folder: Path) -> Picture:
    """Write `<slug>.png`, `.svg` and the data behind it, `.csv`, into a folder; the same plot gives the same bytes.

    Raises:
        OSError: where the folder cannot be written.
    """
    path = folder / f"{plot.slug}.svg"
    # The salt makes matplotlib's identifiers a function of the figure's name instead of chance.
    with plotting(RC | {"svg.hashsalt": plot.slug}):
        _draw(plot.figure, folder / f"{plot.slug}.png", path)
    data = plot.data.reset_index(drop=True)
    (folder / f"{plot.slug}.csv").write_text(inert(data), encoding="utf-8")
    drawn = with_palettes(path.read_text(encoding="utf-8"))
    path.write_text(drawn, encoding="utf-8")
    svg = inline(drawn, plot.slug, plot.alt)
    return Picture(plot.slug, plot.caption, plot.alt, svg, data, wide=plot.figure.get_figwidth() > COLUMN)


def _draw(figure: Figure, png: Path, svg: Path) -> None:
    """Lay a figure out once and draw each file once: `savefig` would do both twice per file."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    figure.set_dpi(rcParams["savefig.dpi"])
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})


def inline(svg: str, prefix: str, label: str) -> Markup:
    """A figure's SVG as an element of an HTML page.

    Identifiers and the references to them get a prefix, because every figure calls its parts alike; the page's
    colours replace the figure's; the element carries its content in words.

    Args:
        svg: A document as matplotlib writes it.
        prefix: Unique within the page.
        label: What a screen reader says.
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
    opening = f'<svg role="img" aria-label="{escape(label)}"'
    return Markup(body.replace("<svg", opening, 1).strip())  # noqa: S704 - matplotlib escaped every name in it
