"""MLflow as a view of the results folder: the only module that imports mlflow.

A thread of the runner's process mirrors finished cells, one run each, found again by their `cell` tag, so that
sending twice changes nothing. A tracking server that is down costs a warning, never a result.
"""

import logging
import math
import os
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from filelock import FileLock

from dmlbench.spec import Cell
from dmlbench.store import Record, read_spec, read_summary

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

FLUSH_SECONDS = 60.0
PARAM_LIMIT = 500  # characters MLflow keeps of a parameter
# Two seconds and one retry: with MLflow's defaults a dead server would hold the runner for minutes.
LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class TrackingError(RuntimeError):
    """The tracking store did not do what was asked; results are not touched."""


class Mirror:
    """Sends finished cells to MLflow from a thread; use as a context manager and call it as an observer."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._folders: queue.Queue[Path | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow mirror", daemon=True)
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._folders.put(None)
        self._thread.join(FLUSH_SECONDS)
        if self._thread.is_alive():
            self._warn("MLflow is slow: some runs are not there yet; `dmlbench sync` sends the rest")

    def __call__(self, cell: Cell, folder: Path, event: dict[str, Any]) -> None:  # noqa: ARG002 - an Observer
        """Queue a cell that has finished."""
        if event["event"] == "finished":
            self._folders.put(folder)

    def _work(self) -> None:
        try:
            client = connect()
            while (folder := self._folders.get()) is not None:
                summary = read_summary(folder)
                if summary is not None:
                    self.sent += send(client, Record(folder, summary))
        except Exception as error:  # noqa: BLE001 - whatever a server does, results are safe on disk
            reason = str(error).splitlines()[0][:200]
            self._warn(f"MLflow: {type(error).__name__}: {reason}; results are safe, `dmlbench sync` sends them later")


def connect() -> "MlflowClient":
    """A client on the store as MLflow itself resolves it; creates a local database once, under a lock."""
    _set_limits()
    import mlflow

    for chatty in ("mlflow", "alembic"):  # a new database is no news to someone who watches training
        logging.getLogger(chatty).setLevel(logging.WARNING)
    uri = mlflow.get_tracking_uri()
    try:
        # The lock also tells at once of a folder that cannot be written, where MLflow tries for minutes.
        with _database_lock(uri):
            client = mlflow.MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise TrackingError(str(error)) from error
    return client


def _database_lock(uri: str) -> AbstractContextManager[object]:
    """The lock under which a local database is created: several first writers break it."""
    database = local_database(uri)
    if database is None:
        return nullcontext()
    return FileLock(database.with_name(f".{database.name}.lock"), timeout=120)


def tracking_uri() -> str:
    """The store that runs go to."""
    _set_limits()
    import mlflow

    return str(mlflow.get_tracking_uri())


def local_database(uri: str) -> Path | None:
    """The file of a store that is an SQLite database, there or not; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _set_limits() -> None:
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)


def send(client: "MlflowClient", record: Record) -> bool:
    """Mirror one result; False where a complete run of this result is there already.

    Raises:
        TrackingError: where the store refuses or does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _send(client, record)
    except MlflowException as error:
        raise TrackingError(str(error)) from error


def _send(client: "MlflowClient", record: Record) -> bool:
    cell = record.summary["cell"]
    experiment = _experiment(client, cell["protocol"], cell["dataset"])
    started = str(record.summary.get("started", ""))
    existing = client.search_runs([experiment], f"tags.cell = '{cell['hash']}'")
    # A finished run stays, also one that another machine sent: the same cell again is the same number.
    if any(run.info.status == "FINISHED" for run in existing):
        return False
    if any(run.data.tags.get("started") == started and run.info.end_time for run in existing):
        return False
    for run in existing:  # an attempt that was cut off, or a failure that has since been run again
        client.delete_run(run.info.run_id)
    _create(client, experiment, record, started)
    return True


def _create(client: "MlflowClient", experiment: str, record: Record, started: str) -> None:
    from mlflow.exceptions import MlflowException

    summary = record.summary
    begin = int(datetime.fromisoformat(started).timestamp() * 1000) if started else None
    name = f"{summary['cell']['method']} seed{summary['cell']['seed']}"
    run_id = client.create_run(experiment, start_time=begin, run_name=name).info.run_id
    try:
        metrics = _metrics(record, begin or 0)
        for start in range(0, len(metrics), 1000):  # the server's limit for one batch
            client.log_batch(run_id, metrics=metrics[start : start + 1000])
        client.log_batch(run_id, params=_params(record), tags=_tags(record, started))
        if summary.get("dataset"):
            client.log_inputs(run_id, [_dataset_input(summary["dataset"])])
        for file in ("spec.yaml", "summary.json", "history.csv"):
            if (record.folder / file).is_file():
                client.log_artifact(run_id, str(record.folder / file))
        end = None if begin is None else begin + int(1000 * float(summary.get("total_s") or 0))
        client.set_terminated(run_id, "FINISHED" if record.done else "FAILED", end_time=end)
    except MlflowException:
        client.delete_run(run_id)
        raise


def _experiment(client: "MlflowClient", protocol: str, dataset: str) -> str:
    from mlflow.exceptions import MlflowException

    name = f"dmlbench/{protocol}/{dataset}"
    note = (
        f"dmlbench: methods trained on the training classes of {dataset} under the protocol {protocol}, "
        "scored on classes they have not seen."
    )
    found = client.get_experiment_by_name(name)
    if found is None:
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": note}
        try:
            return str(client.create_experiment(name, tags=tags))
        except MlflowException:  # another runner made it in between
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _metrics(record: Record, begin: int) -> list["Metric"]:
    """Every measured number of every epoch, with the epoch as step."""
    from mlflow.entities import Metric

    path = record.folder / "history.csv"
    if not path.is_file():
        return []
    history = pd.read_csv(path)
    metrics = []
    for row in history.to_dict("records"):
        epoch = int(row.pop("epoch"))
        values = {str(key): float(value) for key, value in row.items() if not math.isnan(float(value))}
        metrics += [Metric(key, value, begin, epoch) for key, value in values.items()]
    return metrics


def _params(record: Record) -> list["Param"]:
    from mlflow.entities import Param

    spec = read_spec(record.folder)
    parts = {"loss": spec.method.loss, "distillation": spec.method.distillation}
    flat = {f"{kind}.{name}": value for kind, part in parts.items() if part for name, value in part.values().items()}
    protocol = spec.protocol.model_dump(mode="json", exclude={"name", "title", "description"})
    for section, values in protocol.items():
        flat |= {f"{section}.{name}": value for name, value in values.items() if value is not None}
    flat |= {"dataset.version": spec.dataset.version, "overrides": ", ".join(spec.overrides)}
    return [Param(key, str(value)[:PARAM_LIMIT]) for key, value in flat.items()]


def _tags(record: Record, started: str) -> list["RunTag"]:
    from mlflow.entities import RunTag

    summary = record.summary
    cell, environment = summary["cell"], summary.get("environment") or {}
    keys = ("method", "base", "modifier", "dataset", "protocol", "variant", "seed")
    tags = {key: str(cell[key]) for key in keys} | {
        "cell": cell["hash"],
        # Runs of one campaign share every value of the protocol, so they may be compared.
        "campaign": f"{cell['protocol_hash'][:8]}-{cell['dataset']}",
        "status": summary["status"],
        "started": started,
        "marks": "; ".join(cell["marks"]),
        "gpu": environment.get("gpu", "none"),
        "code": (summary.get("code") or {}).get("digest", ""),
    }
    if summary.get("error"):
        tags["error"] = summary["error"]["message"]
    return [RunTag(key, value) for key, value in tags.items() if value]


def _dataset_input(dataset: dict[str, Any]) -> "DatasetInput":
    """The dataset as metadata: name, fingerprint and counts, never images."""
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {key: value for key, value in dataset.items() if key.endswith(("_images", "_classes"))}
    source = json.dumps({"name": dataset["name"], "version": dataset["version"]})
    digest = dataset["fingerprint"][:8]
    entity = Dataset(dataset["name"], digest, "local", source, profile=json.dumps(profile))
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training and evaluation")])
