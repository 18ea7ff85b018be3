"""How metrics and numbers are written, and in which order methods stand: the same in every table and figure."""

import math
import re
from collections.abc import Iterable

import pandas as pd

MINUS = "\N{MINUS SIGN}"
NAMES = {"map_at_r": "MAP@R", "r_precision": "R-precision", "nmi": "NMI", "ami": "AMI"}
# Bases and modifiers in the order in which their papers appeared; others follow by name.
BASES = ("contrastive", "triplet", "margin", "ms", "proxyanchor")
MODIFIERS = ("", "psd", "obdsd", "s2sd", "dm2")


def metric_name(metric: str) -> str:
    """The field's name of a metric: `R@1` for `recall_at_1`."""
    recall = re.fullmatch(r"recall_at_(\d+)", metric)
    return f"R@{recall[1]}" if recall else NAMES.get(metric, metric.replace("_", " "))


def table_metrics(metrics: Iterable[str]) -> list[str]:
    """The metrics that tables show, recall first; all are fractions. Others stand in the CSV files only."""
    present = set(metrics)
    recalls = sorted((m for m in present if re.fullmatch(r"recall_at_\d+", m)), key=lambda m: int(m.rpartition("_")[2]))
    return [*recalls, *(metric for metric in NAMES if metric in present)]


def percent(fraction: float) -> str:
    """A fraction in percent with two decimals, `62.80`; a dash where there is none."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.2f}".replace("-", MINUS)


def points(fraction: float) -> str:
    """A difference of fractions in percentage points with its sign, `+0.42`; a dash where there is none."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:+.2f}".replace("-", MINUS)


def ratio(value: float) -> str:
    """A ratio with two decimals, `1.31`; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by base and modifier in the order of `BASES` and `MODIFIERS`; needs the columns base, modifier, method."""
    keys = {
        index: (base != "", rank(base, BASES), rank(modifier, MODIFIERS), method)
        for index, base, modifier, method in frame[["base", "modifier", "method"]].itertuples(name=None)
    }
    return frame.loc[sorted(keys, key=lambda index: keys[index])]


def rank(name: str, known: tuple[str, ...]) -> tuple[int, str]:
    """Sort key of a base or modifier: its place among the known, then its name with settings."""
    plain = name.partition("{")[0]
    return (known.index(plain) if plain in known else len(known), name)
