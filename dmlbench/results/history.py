"""`history.csv`: what every epoch measured, a row each, in full precision; and what a result says of it.

A number is of the last epoch, the one validation chose, or the best on the test classes. Published figures are the
best test epoch of every metric separately: such numbers have a name of their own, and are never mixed with the others
(Musgrave et al. 2020, arXiv 2003.08505).
"""

import csv
import io
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median
from typing import TypedDict

from dmlbench.errors import UserError

HISTORY = "history.csv"
LARGEST = 2**28  # bytes: a hundred thousand epochs
MOST_EPOCHS = 10**9
LONGEST = 1e10  # seconds
Row = dict[str, float | int | None]


def history_text(rows: list[Row]) -> str:
    """The CSV of a history: full precision, empty where nothing was measured, timing columns last."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns.sort(key=lambda key: key.startswith("time/"))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else repr(value) for key, value in row.items()})
    return buffer.getvalue()


def read_history(folder: Path) -> list[Row]:
    """Read `history.csv` back, None where nothing was measured; empty where there is none.

    Raises:
        UserError: where the file is not a history.
    """
    path = folder / HISTORY
    try:
        columns, *lines = _lines(path)
        rows = [dict(zip(columns, map(_number, line), strict=True)) for line in lines]
        _check(columns, rows)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, csv.Error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{path}: not a readable history ({reason})") from error
    return rows


def _lines(path: Path) -> list[list[str]]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"has more than {LARGEST >> 20} MiB")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, strict=True))


def _check(columns: list[str], rows: list[Row]) -> None:
    """Raise ValueError where rows are none of a history."""
    if "epoch" not in columns:
        raise ValueError("no column `epoch`")
    if len(set(columns)) < len(columns):
        raise ValueError("a column stands twice")
    for row in rows:
        epoch = row["epoch"]
        if not (isinstance(epoch, int) and 0 <= epoch <= MOST_EPOCHS):
            raise ValueError("a row without its epoch")
        for key, value in row.items():
            if value is not None and not (math.isfinite(value) and (0 <= value <= LONGEST or key[:5] != "time/")):
                raise ValueError(f"epoch {epoch}: {key} is {value}")


def _number(text: str) -> float | int | None:
    if text == "":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


# Geometry and the spread of NMI over k-means starts have no better direction, so no epoch is selected by them.
SELECTABLE = ("map_at_r", "r_precision", "nmi", "nmi_revisiting", "ami")
VALIDATION_METRIC = "validation/map_at_r"


class Chosen(TypedDict):
    """Metrics under one choice of the epoch, as `summary.json` holds them: the epoch and the value of each."""

    epochs: dict[str, int]
    metrics: dict[str, float]


class Times(TypedDict):
    """What a training cost, as `summary.json` holds it: a step in milliseconds, all else in seconds."""

    step_ms: float
    train_s: float
    evaluation_s: float
    phases: dict[str, float]


def selections(rows: Sequence[Row]) -> dict[str, Chosen]:
    """All selections of a history, by name.

    `untrained` is the row of epoch 0, which no other selection includes.
    """
    untrained = [row for row in rows if row["epoch"] == 0]
    trained = [row for row in rows if row["epoch"] != 0 and row.get("test/recall_at_1") is not None]
    result: dict[str, Chosen] = {"untrained": _at(untrained[0])} if untrained else {}
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


def _at(row: Row) -> Chosen:
    metrics = {key.removeprefix("test/"): value for key, value in row.items() if key.startswith("test/")}
    measured = {metric: value for metric, value in metrics.items() if value is not None}
    return {"epochs": dict.fromkeys(measured, epoch_of(row)), "metrics": measured}


def epoch_of(row: Row) -> int:
    """The epoch that a row is of."""
    return int(row["epoch"] or 0)


def _best(rows: Sequence[Row]) -> Chosen:
    best: dict[str, tuple[float, int]] = {}
    for row in rows:
        for metric, value in _at(row)["metrics"].items():
            better = metric not in best or value > best[metric][0]
            name = metric.rpartition("/")[2]  # of one of several networks, `ensemble/recall_at_1`
            if (name in SELECTABLE or name.startswith("recall_at_")) and better:
                best[metric] = (value, epoch_of(row))
    return {
        "epochs": {metric: epoch for metric, (_, epoch) in best.items()},
        "metrics": {metric: value for metric, (value, _) in best.items()},
    }


def timing(rows: Sequence[Row], resumed: Collection[int] = ()) -> Times:
    """Sums of a history's times, and the step time as the median over epochs.

    The first epoch of a process warms up, also after one at which another process `resumed`: where there are others,
    it does not count for the step time.
    """
    trained = [row for row in rows if row["epoch"]]
    settled = [row for row in trained if epoch_of(row) - 1 not in {0, *resumed}] or trained
    phases = [key for key in trained[0] if key.startswith("time/") and key.endswith("_s")]
    totals = {key.removeprefix("time/"): sum(float(row[key] or 0) for row in rows if key in row) for key in phases}
    return {
        "step_ms": median(float(row.get("time/step_ms") or 0) for row in settled),
        "train_s": totals.pop("train_s", 0.0),
        "evaluation_s": totals.pop("evaluation_s", 0.0),
        "phases": totals,
    }
