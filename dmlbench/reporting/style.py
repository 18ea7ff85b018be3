"""One look for all figures: colour is the base loss; marker, line and hatch are the modifier.

Tuned values give a method no look of its own: labels and titles of panels say so.

matplotlib as every figure uses it: the user's `matplotlibrc` changes nothing, and no name is mathematics.
"""

import itertools
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import style

from dmlbench.analysis.groups import BASES, MODIFIERS, rank
from dmlbench.results.frames import MEAN
from dmlbench.specs.overrides import Settings

# Ink, muted ink, grid and paper stand in the SVG as these very codes; the page replaces them by its own colours,
# so that an inlined figure follows light and dark.
INK, MUTED, GRID, PAPER = "#1b1f24", "#5f6b76", "#dfe3e7", "#ffffff"
COLUMN, PAGE = 3.5, 7.0  # widths in inches: one column, and the text width of a two-column page

# Okabe and Ito (2008), "Color universal design": distinguishable with every common colour vision. Black is ink, and
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


Setting = tuple[str, Settings]  # a base or a modifier with its settings
Signed = Mapping[Any, Any] | pd.Series  # a row of a table with the columns `groups.METHOD`


@dataclass(frozen=True)
class Look:
    """Colours of bases and signs of modifiers, the same for every figure of a report."""

    bases: dict[Setting, int]
    modifiers: dict[Setting, int]

    @classmethod
    def of(cls, methods: pd.DataFrame) -> "Look":
        """Fixed slots for the known names; others take the free ones in order of their name.

        Args:
            methods: The columns `groups.METHOD` of every table that is drawn.
        """
        bases, modifiers = (
            set(methods[[name, f"{name}_settings"]].itertuples(index=False, name=None)) for name in ("base", "modifier")
        )
        signs = {name: slot for slot, name in enumerate(MODIFIERS)}
        colours = _places(bases, KNOWN_COLOURS, BASES, len(PALETTE))
        return cls(colours, _places(modifiers, signs, MODIFIERS, len(MARKERS)))

    def colour(self, row: Signed) -> str:
        """Colour of a base and of all methods built on it."""
        return PALETTE[self.bases[row["base"], row["base_settings"]] % len(PALETTE)]

    def signs(self, row: Signed) -> tuple[str, str, str]:
        """Colour, colour within, and marker; of one network of several, or of their ensemble, it is hollow."""
        colour = self.colour(row)
        return colour, PAPER if row["network"] != MEAN else colour, MARKERS[self._sign(row) % len(MARKERS)]

    def line(self, row: Signed) -> Any:  # noqa: ANN401 - matplotlib's line style
        """Line style of a modifier; solid for a base."""
        return LINES[self._sign(row) % len(LINES)]

    def hatch(self, row: Signed) -> str:
        """Hatch of a modifier's bars."""
        return HATCHES[self._sign(row) % len(HATCHES)]

    def _sign(self, row: Signed) -> int:
        return self.modifiers[row["modifier"], row["modifier_settings"]]


def _places(
    found: Iterable[Setting], fixed: Mapping[str, int], order: tuple[str, ...], count: int
) -> dict[Setting, int]:
    """A slot for each, of which `count` differ: one with settings has that of its plain name where it is free."""
    present = sorted(found, key=lambda one: (rank(one[0], order), one[1]))
    slots = {one: fixed[one[0]] for one in present if one[0] in fixed and not one[1]}
    for one in present:
        if one not in slots and fixed.get(one[0], -1) not in {-1, *slots.values()}:
            slots[one] = fixed[one[0]]
    # New slots first, then those of known names that are not here; the first is the base's own.
    wanted = (*range(len(fixed), count), *range(1, len(fixed)))
    free = itertools.chain((slot for slot in wanted if slot not in set(slots.values())), itertools.count(count))
    return slots | {one: next(free) for one in present if one not in slots}


# Names of classes, files, methods and settings come from users: a dollar sign is a dollar sign.
NAMES_ARE_TEXT = {"text.parse_math": False}


def plotting(own: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """A context in which figures are made and drawn: matplotlib's own defaults, changed by nothing but `own`.

    Args:
        own: Settings of matplotlib (`rcParams`) for this figure.
    """
    return style.context(["default", NAMES_ARE_TEXT | dict(own or {})])
