"""What a cell is in MLflow: its metrics, parameters, tags and dataset."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dmlbench.analysis.groups import SEPARATOR, arrange, without_paths
from dmlbench.history import read_history
from dmlbench.readouts import MEAN
from dmlbench.results import record_rows
from dmlbench.spec import PROSE, Cell, digest
from dmlbench.store import Record

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

PARAM_LIMIT = 500  # characters MLflow keeps of a parameter
TAG_LIMIT = 5000
LABEL_LIMIT = 40  # characters of settings that a chart's legend has room for
ARTIFACTS = ("spec.yaml", "summary.json", "history.csv")
FINAL = ("recall_at_1", "map_at_r", "r_precision", "nmi")
BEST_TEST = ("recall_at_1", "map_at_r")


def metrics(folder: Path, begun_ms: int, after: int = -1) -> list["Metric"]:
    """Every measured number of every epoch beyond `after`, with the epoch as step.

    Its time is the beginning plus the epochs' own times, so that the same epoch sent twice is the same metric, of
    which MLflow keeps one.
    """
    from mlflow.entities import Metric

    found, seconds = [], 0.0
    for row in read_history(folder):
        seconds += sum(row.get(key) or 0.0 for key in ("time/train_s", "time/evaluation_s"))
        epoch, time_ms = int(row["epoch"] or 0), begun_ms + int(1000 * seconds)
        values = {key: float(value) for key, value in row.items() if value is not None and key != "epoch"}
        found += [Metric(key, value, time_ms, epoch) for key, value in values.items() if epoch > after]
    return found


def final_metrics(record: Record, ended_ms: int) -> list["Metric"]:
    """A finished cell in few numbers, to sort a table of runs by; none of a failed one.

    `final/NAME` is a test metric after the last epoch, `best_test/NAME` at the epoch that was best by it. `cost/` has
    the median training step in milliseconds, training and all in minutes.
    """
    from mlflow.entities import Metric

    rows = {row["selection"]: row for row in record_rows(record) if row["readout"] == MEAN}
    last, best = (rows.get(name, {}) for name in ("last", "best_test"))
    if not last:
        return []
    total, train = float(record.summary.get("total_s") or 0), float(last["train_seconds"] or 0)
    found = {f"final/{name}": last.get(name) for name in FINAL}
    found |= {f"best_test/{name}": best.get(name) for name in BEST_TEST}
    found |= {"cost/step_ms": last["step_ms"], "cost/train_min": train / 60, "cost/total_min": total / 60}
    return [Metric(key, readable(value), ended_ms, 0) for key, value in found.items() if value is not None]


def readable(value: float) -> float:
    """Six significant digits, which a column of the UI shows whole; the metrics by epoch have all of them."""
    return float(f"{value:.6g}")


def params(cell: Cell) -> list["Param"]:
    """Every value of the spec, flat."""
    from mlflow.entities import Param

    parts = {"loss": cell.method.loss, "distillation": cell.method.distillation}
    flat = {f"{kind}.{name}": value for kind, part in parts.items() if part for name, value in part.settings().items()}
    protocol = cell.protocol.model_dump(mode="json", exclude={"name", *PROSE})
    for section, values in protocol.items():
        flat |= {f"{section}.{name}": value for name, value in values.items() if value is not None}
    flat |= {"dataset.version": cell.dataset.version, "overrides": ", ".join(cell.overrides)}
    return [Param(key, str(value)[:PARAM_LIMIT]) for key, value in flat.items()]


def tags(cell: Cell) -> dict[str, str]:
    """What a cell is from its beginning."""
    index = cell.index()
    keys = ("method", "base", "modifier", "dataset", "protocol", "variant", "seed")
    return _tags({key: str(index[key]) for key in keys} | {
        "cell": cell.hash,
        # Runs of one campaign share every value of the protocol, so they may be compared.
        "campaign": f"{index['protocol_hash'][:8]}-{index['dataset']}",
        "status": "running",
        "marks": "; ".join(index["marks"]),
    }) | place_tags(cell)  # fmt: skip


def place_tags(cell: Cell) -> dict[str, str]:
    """Where a cell belongs among others: `group`, its spec but for the seed, and `base_group`, that of its base.

    `label` is the method with what `--set` changed, for people: `ms+psd{lambda=10}, training.epochs=3`; many settings
    are counted, with four digits that tell them from others. A tuned method names no base: that one's tuned values are
    others, which its spec does not hold.
    """
    method, spec = cell.method, cell.identity() | {"seed": None}
    base = method.model_copy(update={"name": method.base, "distillation": None})
    row = arrange(pd.DataFrame([cell.index()])).iloc[0]
    variant = str(row["variant"])
    if len(variant) > LABEL_LIMIT:
        variant = f"{len(SEPARATOR.split(variant))} settings #{digest(variant)[:4]}"
    return _tags({
        "kind": "cell",
        "group": digest(spec),
        "base_group": digest(spec | {"method": base.identity()}) if method.distillation and not method.tuned else "",
        "label": ", ".join(filter(None, (str(row["method"]), without_paths(variant)))),
    })  # fmt: skip


def final_tags(record: Record) -> list["RunTag"]:
    """What is known of a cell at its end."""
    from mlflow.entities import RunTag

    summary = record.summary
    values = _tags({
        "status": summary["status"],
        "started": str(summary.get("started", "")),
        "gpu": (summary.get("environment") or {}).get("gpu", "none"),
        "machine": str(record_rows(record)[0]["machine"] or ""),
        "code": (summary.get("code") or {}).get("digest", ""),
        "error": (summary.get("error") or {}).get("message", ""),
    })  # fmt: skip
    return [RunTag(key, value) for key, value in values.items()]


def dataset_input(dataset: dict[str, Any]) -> "DatasetInput":
    """The dataset as metadata: name, fingerprint and counts, never images."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {key: value for key, value in dataset.items() if key.endswith(("_images", "_classes"))}
    source = json.dumps({"name": dataset["name"], "version": dataset["version"]})
    digest = dataset["fingerprint"][:8]
    entity = Dataset(dataset["name"], digest, "local", source, profile=json.dumps(profile))
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training and evaluation")])


def _tags(values: dict[str, str]) -> dict[str, str]:
    return {key: value[:TAG_LIMIT] for key, value in values.items() if value}
