"""What a method's run says in sum, from the runs of its cells."""

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import pandas as pd

from dmlbench.analysis.groups import arrange
from dmlbench.analysis.overhead import overhead
from dmlbench.analysis.statistics import log_ratio_interval, t_interval
from dmlbench.tracking.content import readable
from dmlbench.tracking.views import PRIMARY

if TYPE_CHECKING:
    from mlflow.entities import Run

STEP = "cost/step_ms"


def summary_metrics(cells: "Sequence[Run]", bases: "Sequence[Run]") -> dict[str, float]:
    """Means over the seeds that finished, with half the width of their 95% interval, and the cost.

    Args:
        cells: Runs of one method's cells, one a seed.
        bases: Runs of its base's cells; empty for a base.

    Returns:
        `final/NAME`, `best_test/NAME`, `ci95/NAME` (of the final ones), `seeds` (how many the means are of),
        `cost/train_min`, `cost/total_min`; `cost/step_ms`, a geometric mean; `cost/overhead`, the geometric mean of
        the ratios of step times per seed, with `cost/overhead_low`, `cost/overhead_high` and `cost/overhead_seeds`.
    """
    done = finished(cells)
    if not done:
        return {}
    found: dict[str, float] = {"seeds": float(len(done))}
    keys = sorted({key for run in done for key in run.data.metrics})
    for key in keys:
        values = [run.data.metrics[key] for run in done if key in run.data.metrics]
        if key.startswith(("final/", "best_test/")) or (key.startswith("cost/") and key != STEP):
            estimate = t_interval(values)
            found[key] = estimate.mean
            if key.startswith("final/"):
                found[f"ci95/{key.partition('/')[2]}"] = estimate.high - estimate.mean
        elif key == STEP:
            found[key] = log_ratio_interval(pd.Series(values), pd.Series(1.0, range(len(values)))).mean
    found |= _overhead(done, finished(bases))
    return {key: readable(value) for key, value in found.items() if not isnan(value)}


def finished(cells: "Sequence[Run]") -> "list[Run]":
    """The runs that a mean may be of: one a cell, ended well, with their final metrics."""
    done = [run for run in cells if run.info.status == "FINISHED" and PRIMARY in run.data.metrics]
    return list({run.data.tags["cell"]: run for run in done}.values())


def _overhead(cells: "Sequence[Run]", bases: "Sequence[Run]") -> dict[str, float]:
    rows = [_row(run) for run in (*cells, *bases)]
    if not bases or not any("step_ms" in row for row in rows):
        return {}
    table = overhead(arrange(pd.DataFrame(rows).astype({"step_ms": float})))
    names = {"mean": "overhead", "low": "overhead_low", "high": "overhead_high", "n": "overhead_seeds"}
    ratios = [row for row in table.to_dict("records") if row["n"]]
    return {f"cost/{name}": float(ratios[0][key]) for key, name in names.items()} if ratios else {}


def _row(run: "Run") -> dict[str, Any]:
    """A run as a row of `load_results`."""
    tags = run.data.tags
    keys = ("protocol", "variant", "dataset", "method", "base", "modifier", "seed", "machine", "marks")
    step = {"step_ms": run.data.metrics[STEP]} if STEP in run.data.metrics else {}
    return {key: tags.get(key, "") for key in keys} | {"status": "done", "folder": run.info.run_id, **step}
