"""The way to MLflow's store, with limits that keep a dead server from holding anyone up."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Two seconds and one retry: with MLflow's defaults a dead server would hold the runner for minutes.
LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
MOST = 160  # characters of a store's own words
LOCK_SECONDS = 120.0  # what eight runners that begin together wait for each other at most


class TrackingError(RuntimeError):
    """The tracking store did not do what was asked; results are not touched."""

    @property
    def brief(self) -> str:
        """What happened in one line of bearable length, and what to do."""
        line = (str(self).splitlines() or ["no message"])[0]
        words = line if len(line) <= MOST else line[:MOST].rsplit(" ", 1)[0] + " …"
        return f"{words} (start the server, or name another store with MLFLOW_TRACKING_URI)"


def connect() -> "MlflowClient":
    """A client on the store as MLflow itself resolves it; creates a local database once, under a lock.

    Raises:
        TrackingError: where the store cannot be reached, made or read.
    """
    _set_limits()
    import mlflow

    for chatty in ("mlflow", "alembic"):  # a new database is no news to someone who watches training
        logging.getLogger(chatty).setLevel(logging.WARNING)
    uri = mlflow.get_tracking_uri()
    # The lock also tells at once of a folder that cannot be written, where MLflow tries for minutes.
    with store_lock(uri), answering():
        client = mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def answering() -> Iterator[None]:
    """Turn whatever a store does wrong into a TrackingError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackingError(str(error)) from error


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """One writer at a time on a local database, which several first writers break and many hold up; else nothing."""
    database = local_database(uri)
    if database is None:
        yield
        return
    lock = FileLock(database.with_name(f".{database.name}.lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except OSError as error:
        raise TrackingError(str(error)) from error
    try:
        yield
    finally:
        lock.release()


def search(client: "MlflowClient", experiment: str, filter_string: str) -> "list[Run]":
    """All runs of an experiment that a filter lets through, also those beyond the first page."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], filter_string, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def delete(client: "MlflowClient", runs: "Iterable[Run]") -> None:
    """Delete runs, unless somebody else has."""
    from mlflow.exceptions import MlflowException

    for run in runs:
        with suppress(MlflowException):
            client.delete_run(run.info.run_id)


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
