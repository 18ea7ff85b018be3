"""A cell's run in MLflow: begun, updated, ended; one for each cell, whichever process sends it and however often."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dmlbench.errors import UserError
from dmlbench.results.records import Summary
from dmlbench.results.store import Record, read_spec
from dmlbench.specs.cell import Cell
from dmlbench.tracking import methods
from dmlbench.tracking.connection import TrackingError, answering, answers, delete, deleted_on_error, search, store_lock
from dmlbench.tracking.experiments import DeletedExperimentError, active, experiment_of
from dmlbench.tracking.files import Files
from dmlbench.tracking.methods import bring_in_order, settle

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

BATCH = 1000  # metrics in one request: the server's limit
CELL_LOCK = ".mlflow.lock"
NAMED = 3  # results that a store refuses; what it says of more is most often the same


@dataclass
class LiveRun:
    """The run of a cell that is being trained; `run_id` is None where MLflow has the finished cell already."""

    experiment: str
    group: str
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
        experiment, group = experiment_of(client, cell), methods.index_tags(cell)["group"]
        with active(client, experiment):
            runs = _runs(client, experiment, cell.hash)
            if any(run.info.status == "FINISHED" for run in runs):
                return LiveRun(experiment, group, None, 0)
            delete(client, runs)
            begun = int(1000 * time())
            run_id = _create(client, experiment, cell, begun)
            settle(client, experiment, group)
            return LiveRun(experiment, group, run_id, begun)


def update(client: "MlflowClient", folder: Path, live: LiveRun) -> None:
    """Send the epochs that have been trained since the last time."""
    if live.run_id is None:
        return
    with _alone(client, folder), active(client, live.experiment):
        _log_metrics(client, live, methods.metrics(folder, live.begun, live.epoch))


def interrupt(client: "MlflowClient", folder: Path, live: LiveRun) -> None:
    """End the run of a cell that was stopped; the next attempt replaces it."""
    if live.run_id is None:
        return
    update(client, folder, live)
    with _alone(client, folder), active(client, live.experiment):
        client.set_tag(live.run_id, "status", "interrupted")
        client.set_terminated(live.run_id, "KILLED")
        settle(client, live.experiment, live.group)


def send(client: "MlflowClient", record: Record, live: LiveRun | None = None, files: Files | None = None) -> bool:
    """Bring a result to MLflow, as the end of its live run or whole; a run without its files gets them.

    Returns:
        Whether anything was sent: False where a complete run of this result is there already.
    """
    files = files or Files()
    with _alone(client, record.folder):
        cell = read_spec(record.folder)
        experiment, index = experiment_of(client, cell), methods.index_tags(cell)
        with active(client, experiment):
            runs = _runs(client, experiment, cell.hash)
            # A finished run stays, also one that another machine sent: the same cell again is the same number.
            there = [run for run in runs if _stands(run, record.summary)]
            own = None if there or live is None else next((run for run in runs if run.info.run_id == live.run_id), None)
            delete(client, [run for run in runs if run not in there and run is not own])
            if there:
                return files.send_missing(client, there, cell, record.folder)
            _complete(client, record, cell, experiment, live if own else None, files=files)
            # Somebody elsewhere may have sent it at the same time: the first in order stays, for both of us.
            finished = [run for run in _runs(client, experiment, cell.hash) if run.info.status == "FINISHED"]
            delete(client, sorted(finished, key=lambda run: str(run.info.run_id))[1:])
            bring_in_order(client, experiment, index["group"])
    return True


def send_all(client: "MlflowClient", records: Iterable[Record], tell: Callable[[str], None]) -> Iterator[bool | None]:
    """Send each result; one that cannot be sent holds up no other.

    Args:
        client: The store.
        records: The results.
        tell: Takes a line for the user; what many results share is said once.

    Yields:
        Of each result whether anything was sent, and None where it cannot be.

    Raises:
        TrackingError: where the store does not answer.
    """
    said: set[str] = set()
    refused, files = 0, Files(lambda line: tell(f"warning: {line}"))
    for record in records:
        try:
            yield send(client, record, files=files)
            continue
        except UserError as error:
            line = f"error: {error}"
        except DeletedExperimentError as error:
            line = f"error: MLflow: {error.brief}"
        except TrackingError as error:
            if not answers(client):
                raise
            refused += 1
            line = f"error: MLflow: {record.folder}: {error.brief}"
            if refused > NAMED:
                line = "error: MLflow: more results are refused"
        if line not in said:
            said.add(line)
            tell(line)
        yield None


def _complete(
    client: "MlflowClient", record: Record, cell: Cell, experiment: str, live: LiveRun | None, *, files: Files
) -> None:
    summary = record.summary
    begun, ended = _begun(summary), None
    if live is None:  # after the event: its times are those of the training
        live = LiveRun(experiment, "", _create(client, experiment, cell, begun), begun)
        ended = begun + int(1000 * summary.total_s)
    run_id = str(live.run_id)
    with deleted_on_error(client, run_id):
        _log_metrics(client, live, methods.metrics(record.folder, live.begun, live.epoch))
        final = methods.final_metrics(record, ended or int(1000 * time()))
        client.log_batch(run_id, metrics=final, tags=methods.final_tags(record))
        if summary.dataset:
            client.log_inputs(run_id, [methods.dataset_input(summary.dataset)])
        files.send(client, run_id, cell, record.folder)
        client.set_terminated(run_id, "FINISHED" if record.done else "FAILED", end_time=ended)


def _begun(summary: Summary) -> int:
    started = summary.started
    return int(1000 * (datetime.fromisoformat(started).timestamp() if started else time()))


def _create(client: "MlflowClient", experiment: str, cell: Cell, begun: int) -> str:
    tags = methods.tags(cell)
    # With its tags, so that it is found and replaced also where the answer to this request is lost.
    created = client.create_run(experiment, start_time=begun, tags=tags, run_name=f"{tags['label']}, seed {cell.seed}")
    run_id = str(created.info.run_id)
    with deleted_on_error(client, run_id):
        client.log_batch(run_id, params=methods.params(cell))
    return run_id


def _log_metrics(client: "MlflowClient", live: LiveRun, metrics: list["Metric"]) -> None:
    """Log in batches and remember the last epoch of each, so that next to nothing is sent twice after an error."""
    for start in range(0, len(metrics), BATCH):
        batch = metrics[start : start + BATCH]
        client.log_batch(str(live.run_id), metrics=batch)
        unsent = metrics[start + BATCH : start + BATCH + 1]
        # An epoch that two batches share is whole with the second; metrics come in order of their epochs.
        live.epoch = unsent[0].step - 1 if unsent else batch[-1].step


def _runs(client: "MlflowClient", experiment: str, cell: str) -> list["Run"]:
    return search(client, experiment, f"tags.cell = '{cell}'")


def _stands(run: "Run", summary: Summary) -> bool:
    """Whether a run is of this result, or finished and not outdated: of other code, while the cell ran again since."""
    started, code = (run.data.tags.get(key, "") for key in ("started", "code"))
    outdated = code != summary.code.digest and started < summary.started
    return bool((run.info.status == "FINISHED" and not outdated) or (run.info.end_time and started == summary.started))


@contextmanager
def _alone(client: "MlflowClient", folder: Path) -> Iterator[None]:
    """While nobody else writes this cell's run, nor anything to a local database."""
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(folder / CELL_LOCK, timeout=60))
            held.callback((folder / CELL_LOCK).unlink, missing_ok=True)
        except Timeout as error:
            raise TrackingError(f"{folder}: another process is sending it") from error
        except OSError:  # results that may only be read have no second writer here
            pass
        with store_lock(client.tracking_uri), answering():
            yield
