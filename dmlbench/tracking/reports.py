"""A rendered report as the artifacts of a run, in every experiment whose results it shows."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dmlbench.tracking.connection import TrackingError, answering, delete, search, store_lock
from dmlbench.tracking.experiments import NOTE, experiment_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def send_report(client: "MlflowClient", folder: Path) -> list[str]:
    """Log a report's folder as the run `report NAME`; an earlier report of that name is replaced once it is there.

    Users look for the report in an experiment, so each experiment whose results it shows gets it; one
    without any, for its results were never sent, gets none.

    Args:
        client: As `connect` gives it.
        folder: The report's folder, with index.html, report.md, figures/ and tables/.

    Returns:
        The names of the experiments that have it now.

    Raises:
        TrackingError: where the store refuses or does not answer, or the folder holds no report.
    """
    sent = []
    for protocol, dataset in _shown(folder):
        name = experiment_name(protocol, dataset)
        with store_lock(client.tracking_uri), answering():
            found = client.get_experiment_by_name(name)
            if found is not None:
                _send(client, str(found.experiment_id), folder, {"protocol": protocol, "dataset": dataset})
                sent.append(name)
    return sent


def _shown(folder: Path) -> list[tuple[str, str]]:
    """Protocols and datasets of a report's cells."""
    try:
        cells = pd.read_csv(folder / "tables" / "cells.csv", dtype=str, keep_default_na=False)
        return sorted(set(cells[["protocol", "dataset"]].itertuples(index=False, name=None)))
    except (OSError, KeyError, ValueError) as error:
        raise TrackingError(f"{folder}: not a report ({str(error).splitlines()[0]})") from error


def _send(client: "MlflowClient", experiment: str, folder: Path, index: dict[str, str]) -> None:
    content = _digest(folder)
    earlier = _reports(client, experiment, folder.name)
    if earlier and earlier[0].info.status == "FINISHED" and earlier[0].data.tags.get("content") == content:
        delete(client, earlier[1:])
        return
    name = f"report {folder.name}"
    note = "The report with its tables and figures: open `index.html` under *Artifacts*."
    tags = {"kind": "report", "report": folder.name, "content": content, NOTE: note} | index
    run_id = str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)
    try:
        client.log_artifacts(run_id, str(folder))
    except BaseException:
        client.delete_run(run_id)
        raise
    client.set_terminated(run_id)
    delete(client, _reports(client, experiment, folder.name)[1:])


def _reports(client: "MlflowClient", experiment: str, name: str) -> "list[Run]":
    """The runs of a report of that name, the newest first: of two that are sent at once the later stays, for both."""
    runs = search(client, experiment, f"tags.kind = 'report' and tags.report = '{name}'")
    return sorted(runs, key=lambda run: (int(run.info.start_time), str(run.info.run_id)), reverse=True)


def _digest(folder: Path) -> str:
    """Sixteen hexadecimal digits over a folder's files and their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]
