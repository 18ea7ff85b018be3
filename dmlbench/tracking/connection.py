"""The way to MLflow's store, with limits that keep a dead server from holding anyone up."""

import logging
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from filelock import FileLock

from dmlbench.errors import UserError
from dmlbench.tracking.places import local_database, redacted, tracking_uri
from dmlbench.tracking.unfinished import set_aside

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST = 160  # characters of a store's own words
LOCK_SECONDS = 120.0  # what eight runners that begin together wait for each other at most
ELSEWHERE = "name another store with MLFLOW_TRACKING_URI"


class TrackingError(RuntimeError):
    """The tracking store did not do what was asked; results are not touched.

    Args:
        message: What happened; passwords and tokens in it are hidden.
        hint: What to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(redacted(message))
        self.hint = redacted(hint)

    @property
    def brief(self) -> str:
        """What happened in one line of bearable length, and what to do."""
        line = (str(self).strip().splitlines() or ["no message"])[0]
        words = line if len(line) <= MOST else line[:MOST].rsplit(" ", 1)[0] + " …"
        return f"{words} ({self.hint})" if self.hint else words


def connect(tell: Callable[[str], None] = lambda _: None) -> "MlflowClient":
    """A client on the store as MLflow itself resolves it; creates a local database once, under a lock.

    Args:
        tell: Takes a line where a database that was never whole is replaced.

    Raises:
        TrackingError: where the store cannot be reached, made or read.
    """
    with answering():
        uri = tracking_uri()
        import mlflow

        for chatty in ("mlflow", "alembic"):  # a new database is no news to someone who watches training
            logging.getLogger(chatty).setLevel(logging.WARNING)
        # The lock also tells at once of a folder that cannot be written, where MLflow tries for minutes.
        with store_lock(uri):
            if database := local_database(uri):
                set_aside(database, tell)
            client = mlflow.MlflowClient(uri)
            client.search_experiments(max_results=1)
    return client


@contextmanager
def answering() -> Iterator[None]:
    """Turn whatever a store does wrong into a TrackingError: its drivers raise what they like."""
    try:
        yield
    except (UserError, TrackingError):
        raise
    except Exception as error:
        raise TrackingError(str(error), _way_out(error)) from error


def _way_out(error: Exception) -> str:
    """What to do about a store that cannot be used."""
    if isinstance(error, ImportError):
        return f"install that package, or {ELSEWHERE}"
    uri = tracking_uri()
    if "mlflow db upgrade" in str(error):
        return f"keep a copy of it, then `mlflow db upgrade {shlex.quote(uri)}`"
    if uri.startswith(("http://", "https://")):
        return f"start the server, or {ELSEWHERE}"
    if "://" not in uri or uri.startswith("file:"):
        return (
            "MLFLOW_TRACKING_URI=sqlite:///mlflow.db begins a new store, `mlflow migrate-filestore --source FOLDER "
            "--target sqlite:///mlflow.db` takes the old runs into it"
        )
    return ELSEWHERE


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
        raise TrackingError(str(error), ELSEWHERE) from error
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
