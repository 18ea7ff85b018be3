"""Which epoch a number comes from: the last, the one validation chose, or the best on the test classes.

Published figures are the best test epoch of every metric separately. Such numbers are reported under their own
name, beside the others and never mixed with them (Musgrave et al. 2020, arXiv 2003.08505).
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Geometry and the spread of NMI over k-means starts have no better direction, so no epoch is selected by them.
SELECTABLE = ("map_at_r", "r_precision", "nmi", "nmi_revisiting", "ami")
VALIDATION_METRIC = "validation/map_at_r"


def selections(rows: Sequence[Mapping[str, float | int | None]]) -> dict[str, dict[str, Any]]:
    """All selections of a history as `{selection: {"epochs": {metric: epoch}, "metrics": {metric: value}}}`.

    `untrained` is the row of epoch 0, which takes part in no other selection.
    """
    untrained = [row for row in rows if row["epoch"] == 0]
    trained = [row for row in rows if row["epoch"] != 0 and row.get("test/recall_at_1") is not None]
    result = {"untrained": _at(untrained[0])} if untrained else {}
    if not trained:
        return result
    result["last"] = _at(trained[-1])
    # A metric that was not measured at every epoch (NMI is dear) was not chosen by: it has no other selection.
    throughout = set.intersection(*(set(_at(row)["metrics"]) for row in trained))
    trained = [{k: v for k, v in row.items() if not k.startswith("test/") or k[5:] in throughout} for row in trained]
    validated = [row for row in trained if row.get(VALIDATION_METRIC) is not None]
    if validated:
        result["validation"] = _at(max(validated, key=lambda row: row[VALIDATION_METRIC] or 0.0))
    result["best_test"] = _best(trained)
    return result


def _at(row: Mapping[str, float | int | None]) -> dict[str, Any]:
    metrics = {key.removeprefix("test/"): value for key, value in row.items() if key.startswith("test/")}
    measured = {metric: value for metric, value in metrics.items() if value is not None}
    return {"epochs": dict.fromkeys(measured, row["epoch"]), "metrics": measured}


def _best(rows: Sequence[Mapping[str, float | int | None]]) -> dict[str, Any]:
    best: dict[str, tuple[float, Any]] = {}
    for row in rows:
        for metric, value in _at(row)["metrics"].items():
            better = metric not in best or value > best[metric][0]
            name = metric.rpartition("/")[2]  # of a cohort's readout, `ensemble/recall_at_1`
            if (name in SELECTABLE or name.startswith("recall_at_")) and better:
                best[metric] = (value, row["epoch"])
    return {
        "epochs": {metric: epoch for metric, (_, epoch) in best.items()},
        "metrics": {metric: value for metric, (value, _) in best.items()},
    }
