"""In which order methods stand: the same in every table, figure and comparison."""

import pandas as pd

from dmlbench.readouts import whole

# Bases and modifiers in the order in which their papers appeared, then our own; others follow by name.
BASES = ("contrastive", "triplet", "margin", "ms", "proxyanchor")
MODIFIERS = (
    "", "psd", "obdsd", "s2sd", "independent", "dm2", "dm2-model", "dm2-temporal", "dm2-view", "psd-mem", "obdsd-mem",
)  # fmt: skip

Rank = tuple[int, str, bool, str]


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by base and modifier in the order of `BASES` and `MODIFIERS`; needs the columns base, modifier, method."""
    keys = {
        index: (base != "", rank(base, BASES), rank(modifier, MODIFIERS), method)
        for index, base, modifier, method in frame[["base", "modifier", "method"]].itertuples(name=None)
    }
    return frame.loc[sorted(keys, key=lambda index: keys[index])]


def rank(name: str, known: tuple[str, ...]) -> Rank:
    """Sort key of a base or modifier: its place among the known, its name with settings; readouts after the mean."""
    plain, trained = name.partition("{")[0], whole(name)
    return (known.index(plain) if plain in known else len(known), trained, trained != name, name)
