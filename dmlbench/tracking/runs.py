"""A cell's run in MLflow: begun, brought up to date, ended; one for each cell, whoever sends it and how often."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dmlbench.store import Record, read_spec
from dmlbench.tracking import content
from dmlbench.tracking.connection import TrackingError, answering, store_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

BATCH = 1000  # metrics in one request: the server's limit
CELL_LOCK = ".mlflow.lock"


@dataclass
class LiveRun:
    """The run of a cell that is being trained; `run_id` is None where MLflow has the finished cell already."""

    experiment: str
    run_id: str | None
    begun: int  # milliseconds since 1970
    epoch: int = -1  # the last one sent


def begin(client: "MlflowClient", folder: Path) -> LiveRun:
    """Begin the run of a cell; what another attempt at it left is replaced.

    Raises:
        TrackingError: where the store refuses or does not answer; so do all functions here.
    """
    with _alone(client, folder):
        cell = read_spec(folder)
        index = cell.index()
        experiment = _experiment(client, index["protocol"], index["dataset"])
        runs = _runs(client, experiment, index["hash"])
        if any(_is_finished(run) for run in runs):
            return LiveRun(experiment, None, 0)
        _delete(client, runs)
        begun = int(1000 * time())
        return LiveRun(experiment, _create(client, experiment, folder, index, begun), begun)


def update(client: "MlflowClient", folder: Path, live: LiveRun) -> None:
    """Send the epochs that have been trained since the last time."""
    if live.run_id is None:
        return
    with _alone(client, folder):
        _log_metrics(client, live, content.metrics(folder, live.begun, live.epoch))


def interrupt(client: "MlflowClient", folder: Path, live: LiveRun) -> None:
    """End the run of a cell that was stopped; the next attempt replaces it."""
    if live.run_id is None:
        return
    update(client, folder, live)
    with _alone(client, folder):
        client.set_tag(live.run_id, "status", "interrupted")
        client.set_terminated(live.run_id, "KILLED")


def send(client: "MlflowClient", record: Record, live: LiveRun | None = None) -> bool:
    """Bring a result to MLflow, as the end of its live run or whole.

    Returns:
        Whether anything was sent: False where a complete run of this result is there already.
    """
    cell, started = record.summary["cell"], str(record.summary.get("started", ""))
    with _alone(client, record.folder):
        experiment = live.experiment if live else _experiment(client, cell["protocol"], cell["dataset"])
        runs = _runs(client, experiment, cell["hash"])
        # A finished run stays, also one that another machine sent: the same cell again is the same number.
        there = [
            run
            for run in runs
            if (_is_finished(run) and not _is_outdated(run, record.summary))
            or (run.info.end_time and _started(run) == started)
        ]
        own = None if there or live is None else next((run for run in runs if run.info.run_id == live.run_id), None)
        _delete(client, [run for run in runs if run not in there and run is not own])
        if there:
            return False
        _complete(client, record, experiment, live if own else None)
        # Somebody elsewhere may have sent it at the same time: the first in order stays, for both of us.
        finished = [run for run in _runs(client, experiment, cell["hash"]) if _is_finished(run)]
        _delete(client, sorted(finished, key=lambda run: str(run.info.run_id))[1:])
    return True


def _complete(client: "MlflowClient", record: Record, experiment: str, live: LiveRun | None) -> None:
    summary = record.summary
    started = str(summary.get("started", ""))
    begun = int(datetime.fromisoformat(started).timestamp() * 1000) if started else int(1000 * time())
    ended = None
    if live is None:  # after the event: its times are those of the training
        live = LiveRun(experiment, _create(client, experiment, record.folder, summary["cell"], begun), begun)
        ended = begun + int(1000 * float(summary.get("total_s") or 0))
    run_id = str(live.run_id)
    with _deleted_on_error(client, run_id):
        _log_metrics(client, live, content.metrics(record.folder, live.begun, live.epoch))
        client.log_batch(run_id, tags=content.final_tags(summary))
        if summary.get("dataset"):
            client.log_inputs(run_id, [content.dataset_input(summary["dataset"])])
        for file in content.ARTIFACTS:
            if (record.folder / file).is_file():
                client.log_artifact(run_id, str(record.folder / file))
        client.set_terminated(run_id, "FINISHED" if record.done else "FAILED", end_time=ended)


def _create(client: "MlflowClient", experiment: str, folder: Path, cell: dict[str, Any], begun: int) -> str:
    name = f"{cell['method']} seed{cell['seed']}"
    # With its tags, so that it is found and replaced also where the answer to this request is lost.
    created = client.create_run(experiment, start_time=begun, tags=content.tags(cell), run_name=name)
    run_id = str(created.info.run_id)
    with _deleted_on_error(client, run_id):
        client.log_batch(run_id, params=content.params(read_spec(folder)))
    return run_id


def _log_metrics(client: "MlflowClient", live: LiveRun, metrics: list["Metric"]) -> None:
    """Log whole epochs and remember them one by one, so that nothing is sent twice after an error."""
    for epoch in sorted({metric.step for metric in metrics}):
        of_epoch = [metric for metric in metrics if metric.step == epoch]
        for start in range(0, len(of_epoch), BATCH):
            client.log_batch(str(live.run_id), metrics=of_epoch[start : start + BATCH])
        live.epoch = epoch


def _runs(client: "MlflowClient", experiment: str, cell: str) -> list["Run"]:
    return list(client.search_runs([experiment], f"tags.cell = '{cell}'"))


def _is_finished(run: "Run") -> bool:
    return bool(run.info.status == "FINISHED")


def _is_outdated(run: "Run", summary: dict[str, Any]) -> bool:
    """Whether a cell was run again since, by other training code."""
    code = (summary.get("code") or {}).get("digest")
    return run.data.tags.get("code") != code and _started(run) < str(summary.get("started", ""))


def _started(run: "Run") -> str:
    return str(run.data.tags.get("started", ""))


def _delete(client: "MlflowClient", runs: list["Run"]) -> None:
    from mlflow.exceptions import MlflowException

    for run in runs:
        with suppress(MlflowException):  # somebody else has deleted it
            client.delete_run(run.info.run_id)


@contextmanager
def _deleted_on_error(client: "MlflowClient", run_id: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException:
        with suppress(MlflowException):
            client.delete_run(run_id)
        raise


@contextmanager
def _alone(client: "MlflowClient", folder: Path) -> Iterator[None]:
    """While nobody else writes this cell's run, nor anything to a local database."""
    lock = FileLock(folder / CELL_LOCK, timeout=60)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrackingError(f"{folder}: another process is sending it") from error
    except OSError:  # results that may only be read have no second writer here
        pass
    try:
        with store_lock(client.tracking_uri), answering():
            yield
    finally:
        if lock.is_locked:
            (folder / CELL_LOCK).unlink(missing_ok=True)
        lock.release()


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
