"""What a cell is in MLflow: its metrics, parameters, tags and dataset."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dmlbench.spec import Cell

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

PARAM_LIMIT = 500  # characters MLflow keeps of a parameter
TAG_LIMIT = 5000
ARTIFACTS = ("spec.yaml", "summary.json", "history.csv")


def metrics(folder: Path, begun_ms: int, after: int = -1) -> list["Metric"]:
    """Every measured number of every epoch beyond `after`, with the epoch as step.

    Its time is the beginning plus the epochs' own times, so that the same epoch sent twice is the same metric, of
    which MLflow keeps one.
    """
    from mlflow.entities import Metric

    path = folder / "history.csv"
    if not path.is_file():
        return []
    history = pd.read_csv(path)
    times = history.reindex(columns=["time/train_s", "time/evaluation_s"]).fillna(0.0).sum(axis=1).cumsum()
    found = []
    for row, seconds in zip(history.to_dict("records"), times, strict=True):
        epoch, time_ms = int(row.pop("epoch")), begun_ms + int(1000 * seconds)
        values = {str(key): float(value) for key, value in row.items() if not math.isnan(float(value))}
        found += [Metric(key, value, time_ms, epoch) for key, value in values.items() if epoch > after]
    return found


def params(cell: Cell) -> list["Param"]:
    """Every value of the spec, flat."""
    from mlflow.entities import Param

    parts = {"loss": cell.method.loss, "distillation": cell.method.distillation}
    flat = {f"{kind}.{name}": value for kind, part in parts.items() if part for name, value in part.values().items()}
    protocol = cell.protocol.model_dump(mode="json", exclude={"name", "title", "description"})
    for section, values in protocol.items():
        flat |= {f"{section}.{name}": value for name, value in values.items() if value is not None}
    flat |= {"dataset.version": cell.dataset.version, "overrides": ", ".join(cell.overrides)}
    return [Param(key, str(value)[:PARAM_LIMIT]) for key, value in flat.items()]


def tags(cell: dict[str, Any]) -> dict[str, str]:
    """What a cell is from its beginning.

    Args:
        cell: `Cell.index()`, as summaries hold it.
    """
    keys = ("method", "base", "modifier", "dataset", "protocol", "variant", "seed")
    return _tags({key: str(cell[key]) for key in keys} | {
        "cell": cell["hash"],
        # Runs of one campaign share every value of the protocol, so they may be compared.
        "campaign": f"{cell['protocol_hash'][:8]}-{cell['dataset']}",
        "status": "running",
        "marks": "; ".join(cell["marks"]),
    })  # fmt: skip


def final_tags(summary: dict[str, Any]) -> list["RunTag"]:
    """What is known of a cell at its end."""
    from mlflow.entities import RunTag

    values = _tags({
        "status": summary["status"],
        "started": str(summary.get("started", "")),
        "gpu": (summary.get("environment") or {}).get("gpu", "none"),
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
