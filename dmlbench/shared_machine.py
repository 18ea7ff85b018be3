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

    Where any did, so may have the earlier attempts at a cell that went on after an interruption, for when these ran is
    not written down.

    Args:
        summaries: Of the cells of a results folder. Left out of account are those that took less than a second, or
            whose runner's load is not known.
    """
    machines = [_machine(summary) for summary in summaries]
    spans = [_times(summary) for summary in summaries]
    found = [False] * len(summaries)
    for machine in set(filter(None, machines)):
        here = [index for index, own in enumerate(machines) if own == machine]
        timed = [index for index in here if spans[index] and not summaries[index].get("resumed")]
        own = np.array([summaries[index]["environment"]["processes"] for index in timed])
        each = np.array([spans[index] for index in timed], dtype=np.float64).reshape(-1, 2)
        crowded = {index for index, more in zip(timed, _at_once(each) > own + MARGIN, strict=True) if more}
        for index in here:
            found[index] = index in crowded or bool(crowded and summaries[index].get("resumed"))
    return found


def of_its_own(machine: str, cell: str) -> str:
    """The name of a machine that the cell of this hash shared with another runner's: no other cell has the same."""
    return f"{machine}{BESIDE}{cell[:8]}"


def was_shared(machine: object) -> bool:
    """Whether a `machine` of `load_results` is such a one."""
    return BESIDE in str(machine)


def _machine(summary: Mapping[str, Any]) -> tuple[str, str] | None:
    """With its instructions: records of before `machine` told generations of processors apart are still read."""
    environment = summary["environment"]
    name = environment.get("machine")
    return (str(name), str(environment.get("cpu_capability"))) if name else None


def _times(summary: Mapping[str, Any]) -> tuple[float, float] | None:
    """From when to when a cell ran for certain, in seconds."""
    known = {"total_s", "started"} <= summary.keys() and "processes" in summary["environment"]
    if not known:
        return None
    begun = datetime.fromisoformat(summary["started"]).timestamp()
    first, last = begun + RESOLUTION, begun + float(summary["total_s"])
    return (first, last) if last > first else None


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
