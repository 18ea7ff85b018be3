"""A history's times in sum: what a result says of its cost."""

from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any


def timing(rows: Sequence[Mapping[str, Any]], resumed: Collection[int] = ()) -> dict[str, Any]:
    """Sums of a history's times, and the step time as the median over epochs.

    The first epoch of a process warms up: where there are others, it does not count for the step time.

    Args:
        rows: The history.
        resumed: Epochs after which another process went on.
    """
    trained = [row for row in rows if row["epoch"]]
    settled = [row for row in trained if row["epoch"] - 1 not in {0, *resumed}] or trained
    phases = [key for key in trained[0] if key.startswith("time/") and key.endswith("_s")]
    totals = {key.removeprefix("time/"): sum(float(row[key] or 0) for row in rows if key in row) for key in phases}
    return {
        "step_ms": median(float(row["time/step_ms"] or 0) for row in settled),
        "train_s": totals.pop("train_s"),
        "evaluation_s": totals.pop("evaluation_s"),
        "phases": totals,
    }
