"""How methods, metrics and numbers are written: the same in every table and figure."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from dmlbench.analysis.groups import METHOD, OTHER, base_name, method_name, modifier_name
from dmlbench.specs.overrides import Settings

MINUS = "\N{MINUS SIGN}"
NAMES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "nmi": "NMI",
    "nmi_revisiting": "NMI of Roth et al.",
    "ami": "AMI",
}

NAMED = {
    "method": "name", "base": "base_name", "modifier": "modifier_name", "to": "to_name",
}  # fmt: skip
HASHES = ("method_hash", "base_hash", "modifier_hash", "protocol_hash", "dataset_version")
TYPED = ("base_settings", "modifier_settings", "network", "tuned", *OTHER)
OF_TUNING = {"mean_of_files": "files", "mean_of_tuned": "tuned"}  # columns, as a file names them


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with `name`, `base_name`, `modifier_name`; of a comparison also `to_name`, of its reference.

    Args:
        frame: A table with the columns `groups.METHOD`.
    """
    known: dict[tuple[Any, ...], tuple[str, str, str]] = {}  # there are many rows of each method

    def names(columns: list[str]) -> list[tuple[str, str, str]]:
        return [known.get(row) or known.setdefault(row, _names(row)) for row in _tuples(frame[columns])]

    own = names(METHOD)
    found = {name: [each[place] for each in own] for place, name in enumerate(("name", "base_name", "modifier_name"))}
    if OTHER[0] in frame:
        found["to_name"] = [name for name, _, _ in names(OTHER)]
    return frame.assign(**{name: pd.Series(each, frame.index, dtype=object) for name, each in found.items()})


def _tuples(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    return frame.itertuples(index=False, name=None)


def _names(row: tuple[Any, ...]) -> tuple[str, str, str]:
    method = dict(zip(METHOD, row, strict=True))
    return method_name(method), base_name(method), modifier_name(method)


def plain_names(frame: pd.DataFrame) -> pd.Series:
    """Methods by the names that `run` takes, whatever their settings; one network of several as in the tables."""
    none = pd.Series(Settings(), frame.index, dtype=object)
    return named(frame.assign(base_settings=none, modifier_settings=none, tuned=False))["name"]


def for_files(frame: pd.DataFrame, *, typed: bool = False) -> pd.DataFrame:
    """A named table as a file has it: names instead of what they are made of, settings in words, no hashes.

    With `typed` it keeps what names are made of, too.
    """
    if "overrides" in frame:
        frame = frame.assign(overrides=frame["overrides"].map(str)).rename(columns={"overrides": "variant"})
    for plain, name in NAMED.items():
        if name in frame:
            frame = frame.assign(**{plain: frame[name]}) if plain in frame else frame.rename(columns={name: plain})
    left_out = [*NAMED.values(), *HASHES, *(() if typed else TYPED)]
    return frame.drop(columns=left_out, errors="ignore").rename(columns=OF_TUNING)


def metric_name(metric: str) -> str:
    """The field's name of a metric: `R@1` for `recall_at_1`."""
    recall = re.fullmatch(r"recall_at_(\d+)", metric)
    return f"R@{recall[1]}" if recall else NAMES.get(metric, metric.replace("_", " "))


def table_metrics(metrics: Iterable[str]) -> list[str]:
    """The metrics that tables show, recall first; all are fractions. Others are in the CSV files only."""
    present = set(metrics)
    recalls = sorted((m for m in present if re.fullmatch(r"recall_at_\d+", m)), key=lambda m: int(m.rpartition("_")[2]))
    return [*recalls, *(metric for metric in NAMES if metric in present)]


def percent(fraction: float) -> str:
    """A fraction in percent with two decimals, `62.80`; a dash where there is none.

    Bounds of an interval beyond 0 and 1 are written as these: Student's interval does not know what a share is.
    """
    return "–" if math.isnan(fraction) else f"{100 * min(max(fraction, 0.0), 1.0):.2f}"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points with its sign, `+0.42`; a dash where there is none."""
    rounded = f"{100 * fraction:+.2f}"
    return "–" if math.isnan(fraction) else "0.00" if rounded == "-0.00" else rounded.replace("-", MINUS)


def plain(value: float) -> str:
    """A number with two decimals, `1.31`; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """A p-value with three decimals, `.031`, or `<.001`; a dash where there is none."""
    if math.isnan(p):
        return "–"
    # Halves go up: .0625, the least of five pairs, is .063.
    return "<.001" if p < 0.0005 else f"{p + 1e-9:.3f}".removeprefix("0")
