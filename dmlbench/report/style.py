"""One look for all figures: colour is the base loss; marker, line and hatch are the modifier.

Tuned values give a method no look of its own: labels and titles of panels say so.

matplotlib as every figure uses it: the user's `matplotlibrc` changes nothing, and no name is mathematics.
"""

import itertools
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from matplotlib import style

from dmlbench.analysis.groups import BASES, MODIFIERS, rank, with_files_values
from dmlbench.results.readouts import whole

# Ink, muted ink, grid and paper stand in the SVG as these very codes; the page replaces them by its own colours,
# so that an inlined figure follows light and dark.
INK, MUTED, GRID, PAPER = "#1b1f24", "#5f6b76", "#dfe3e7", "#ffffff"
COLUMN, PAGE = 3.5, 7.0  # widths in inches: one column, and the text width of a two-column page

# Okabe and Ito (2008), "Color universal design": tells apart with every common colour vision. Black is ink, and
# yellow is not seen on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
KNOWN_COLOURS = {"ms": 0, "proxyanchor": 1, "triplet": 2, "margin": 3, "contrastive": 4}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d")
LINES: tuple[Any, ...] = (
    "-", (0, (4, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)), (0, (7, 2)),
    (0, (1.2, 2.6)), (0, (5, 1.4, 1.2, 1.4, 1.2, 1.4)), (0, (9, 1.5)), (0, (3, 3)), (0, (7, 1.4, 3, 1.4)),
    (0, (2.4, 1.2)), (0, (9, 1.4, 1.2, 1.4)),
)  # fmt: skip
HATCHES = (  # lines only: dots take a megabyte of SVG
    "", "////", "\\\\\\\\", "xxxx", "||||", "----", "++++", "//", "\\\\", "xx", "||", "++",
)  # fmt: skip

RC: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.facecolor": PAPER,
    "font.size": 8,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "savefig.dpi": 220,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Look:
    """Colours of bases and signs of modifiers, the same for every figure of a report."""

    bases: dict[str, int]
    modifiers: dict[str, int]

    @classmethod
    def of(cls, bases: Iterable[str], modifiers: Iterable[str]) -> "Look":
        """Fixed places for the known names; others take the free ones in order of their name."""
        signs = _places(map(_trained, modifiers), _numbered(MODIFIERS), MODIFIERS, len(MARKERS))
        return cls(_places(map(with_files_values, bases), KNOWN_COLOURS, BASES, len(PALETTE)), signs)

    def colour(self, base: str) -> str:
        """Colour of a base and of all methods built on it."""
        return PALETTE[self.bases[with_files_values(base)] % len(PALETTE)]

    def marker(self, modifier: str) -> str:
        """Marker of a modifier; of the base itself for ""."""
        return MARKERS[self.modifiers[_trained(modifier)] % len(MARKERS)]

    def signs(self, base: str, modifier: str) -> tuple[str, str, str]:
        """Colour, colour within, and marker; a readout, of one network of several or of all, is hollow."""
        colour = self.colour(base)
        return colour, PAPER if whole(modifier) != modifier else colour, self.marker(modifier)

    def line(self, modifier: str) -> Any:  # noqa: ANN401 - matplotlib's line style
        """Line style of a modifier; solid for ""."""
        return LINES[self.modifiers[_trained(modifier)] % len(LINES)]

    def hatch(self, modifier: str) -> str:
        """Hatch of a modifier's bars."""
        return HATCHES[self.modifiers[_trained(modifier)] % len(HATCHES)]


def _trained(modifier: str) -> str:
    """What the signs are of: a readout has those of what it is read from, hollow."""
    return whole(with_files_values(modifier))


def _numbered(names: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _places(names: Iterable[str], fixed: dict[str, int], order: tuple[str, ...], count: int) -> dict[str, int]:
    """A place for every name, of which `count` differ: a name with settings has that of its plain one where free."""
    present = sorted(set(names), key=lambda name: rank(name, order))
    places = {name: fixed[name] for name in present if name in fixed}
    for name in present:
        plain = name.partition("{")[0]
        if name not in places and fixed.get(plain, -1) not in {-1, *places.values()}:
            places[name] = fixed[plain]
    # New places first, then those of known names that are not here; the first is the base's own.
    wanted = (*range(len(fixed), count), *range(1, len(fixed)))
    free = itertools.chain((place for place in wanted if place not in set(places.values())), itertools.count(count))
    return places | {name: next(free) for name in present if name not in places}


# Names of classes, files, methods and settings come from users: a dollar sign is a dollar sign.
NAMES_ARE_TEXT = {"text.parse_math": False}


def plotting(own: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """A context in which figures are made and drawn: matplotlib's own defaults, changed by nothing but `own`.

    Args:
        own: Settings of matplotlib (`rcParams`) for this figure.
    """
    return style.context(["default", NAMES_ARE_TEXT | dict(own or {})])
