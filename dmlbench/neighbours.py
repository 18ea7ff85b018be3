"""Cells that another runner's cells ran beside: their times are of a machine that did other work, too.

A runner writes down how many cells it has at a time, and knows of no other runner. Two that share a results folder on
one machine are seen afterwards, by when their cells ran.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

MARGIN = 0.25  # of a cell, over its whole time: the ends of a matrix overlap by less
RESOLUTION = 1.0  # seconds, in which a beginning is written down
BESIDE = "/beside other runs, cell "


def beside_others(summaries: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether each cell ran beside more cells of its machine than its own runner had at a time, on average.

    Args:
        summaries: Of the cells of a results folder. Of those that went on after an interruption the last attempt
            counts; those that took less than a second, or whose runner's load is not known, are left out of account.
    """
    ends = [_times(summary) for summary in summaries]
    found = [False] * len(summaries)
    machines = [summary["environment"].get("machine") for summary in summaries]
    for machine in set(filter(None, machines)):
        here = [index for index, own in enumerate(machines) if own == machine and ends[index] is not None]
        spans = np.array([ends[index] for index in here], dtype=np.float64).reshape(-1, 2)
        own = np.array([summaries[index]["environment"]["processes"] for index in here])
        for index, crowded in zip(here, _at_once(spans) > own + MARGIN, strict=True):
            found[index] = bool(crowded)
    return found


def of_its_own(machine: str, cell: str) -> str:
    """The name of a machine that the cell of this hash shared with another runner's: no other cell has the same."""
    return f"{machine}{BESIDE}{cell[:8]}"


def was_shared(machine: object) -> bool:
    """Whether a `machine` of `load_results` is such a one."""
    return BESIDE in str(machine)


def _times(summary: Mapping[str, Any]) -> tuple[float, float] | None:
    """From when to when a cell ran for certain, in seconds."""
    known = {"total_s", "started"} <= summary.keys() and "processes" in summary["environment"]
    if not known:
        return None
    begun = datetime.fromisoformat(summary["started"]).timestamp()
    first, last = begun + RESOLUTION, begun + _last_attempt(summary) * float(summary["total_s"])
    return (first, last) if last > first else None


def _last_attempt(summary: Mapping[str, Any]) -> float:
    """The share of a cell's time that its last attempt took, the only one whose beginning is written down."""
    resumed, chosen = summary.get("resumed"), summary.get("selections") or {}
    epochs = (chosen.get("last") or {}).get("epochs") or {}
    if not resumed:
        return 1.0
    return float(1 - resumed[-1] / max(epochs.values())) if epochs else 0.0


def _at_once(spans: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How many spans there are at a time, on average over each span, itself counted.

    The spans' time that has gone by at a moment, summed over all, is a line with corners where they begin and end.
    """
    if not len(spans):
        return np.empty(0)
    begins, ends = np.sort(spans[:, 0]), np.sort(spans[:, 1])
    corners = np.sort(spans.ravel())
    running = np.searchsorted(begins, corners, "right") - np.searchsorted(ends, corners, "right")
    gone = np.concatenate([[0.0], np.cumsum(running[:-1] * np.diff(corners))])
    spent = np.interp(spans[:, 1], corners, gone) - np.interp(spans[:, 0], corners, gone)
    return np.asarray(spent / (spans[:, 1] - spans[:, 0]))
