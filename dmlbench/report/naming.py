"""How metrics and numbers are written: the same in every table and figure."""

import math
import re
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"
NAMES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "nmi": "NMI",
    "nmi_revisiting": "NMI of Roth et al.",
    "ami": "AMI",
}


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


def plain(value: float) -> str:
    """A number with two decimals, `1.31`; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """A p-value with three decimals, `.031`, or `<.001`; a dash where there is none."""
    if math.isnan(p):
        return "–"
    # Halves go up: .0625, the least of five pairs, is .063.
    return "<.001" if p < 0.0005 else f"{p + 1e-9:.3f}".removeprefix("0")
