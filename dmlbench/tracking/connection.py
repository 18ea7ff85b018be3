"""The way to MLflow's store: its URI, its file, the folder of artifacts, what of a URI is secret, and limits in time.

A local database whose making was interrupted is set aside: no release of MLflow opens it, and it never held a run.
"""

import logging
import os
import re
import shlex
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from dmlbench.errors import UserError, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOCK_SECONDS = 120.0  # what eight runners that begin together wait for each other at most
PAGE = re.compile(r"\.? Response body: '\s*<.*", re.DOTALL)  # a web server's page for people
LINE_END = re.compile(r"(?<![.,:;?!])\s*\n\s*")  # of a line without a mark at its end
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
        """What happened in one line, and what to do."""
        words = one_line(str(self).strip()) or "no message"
        return f"{words} ({self.hint})" if self.hint else words


def connect(tell: Callable[[str], None] = lambda _: None) -> "MlflowClient":
    """A client on the store as MLflow itself resolves it; creates a local database once, under a lock.

    Raises:
        TrackingError: where the store cannot be reached, made or read.
    """
    with answering():
        uri = tracking_uri()
        import mlflow

        for name, level in LOGGERS.items():
            logging.getLogger(name).setLevel(level)
        # The lock fails at once on a folder that cannot be written, where MLflow retries for minutes.
        with store_lock(uri):
            if database := local_database(uri):
                set_aside(database.resolve(), tell)
            _try_once(uri)
            client = mlflow.MlflowClient(uri)
            client.search_experiments(max_results=1)
    return client


def _try_once(uri: str) -> None:
    """Raise what a database does that cannot be opened: MLflow would try ten times, for a hundred seconds."""
    if not is_database(uri):
        return
    import sqlalchemy
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        sqlalchemy.inspect(engine)
    finally:
        engine.dispose()


def answers(client: "MlflowClient") -> bool:
    """Whether a store answers, so that what it has just refused is at fault and not the store."""
    try:
        with answering():
            client.search_experiments(max_results=1)
    except TrackingError:
        return False
    return True


@contextmanager
def answering() -> Iterator[None]:
    """Turn whatever a store does wrong into a TrackingError: its drivers raise what they like."""
    try:
        yield
    except (UserError, TrackingError):
        raise
    except Exception as error:
        raise _explained(error) from error


def _explained(error: Exception) -> TrackingError:
    """What a store said, and what to do; the advice in its own words is left out where ours has the same."""
    words, uri = own_words(error), tracking_uri()
    first = words.partition(". ")[0]
    if isinstance(error, ImportError):
        return TrackingError(words, f"install its package, or {ELSEWHERE}")
    if "mlflow db upgrade" in words:
        upgrade = f"keep a copy of it, then `mlflow db upgrade {shlex.quote(uri)}`"
        return TrackingError(first, f"{upgrade}; where a newer MLflow made it, install that one")
    if ALLOWED in words:
        migrate = "mlflow migrate-filestore --source FOLDER --target sqlite:///mlflow.db"
        return TrackingError(
            first,
            f"MLFLOW_TRACKING_URI=sqlite:///mlflow.db begins a new store, `{migrate}` takes the old runs into it, "
            f"{ALLOWED}=true keeps the old store",
        )
    if uri.startswith(("http://", "https://")) and not _refused(error):
        return TrackingError(words, f"start the server, or {ELSEWHERE}")
    return TrackingError(words, ELSEWHERE)


def _refused(error: Exception) -> bool:
    """Whether a server runs, and does not want what it is sent."""
    from mlflow.exceptions import RestException

    return isinstance(error, RestException) or "failed with error code 4" in str(error)


def own_words(error: BaseException) -> str:
    """What an error says; of a database, in its driver's words, to which SQLAlchemy adds a statement and a link."""
    from sqlalchemy.exc import DBAPIError

    cause = error.__cause__ if isinstance(error.__cause__, DBAPIError) else error
    driver = cause.orig if isinstance(cause, DBAPIError) else None
    words = LINE_END.sub("; ", PAGE.sub("", str(driver or cause).strip()))
    # Which of them it is about SQLite does not say.
    database = local_database(tracking_uri()) if driver else None
    return f"{database}: {words}" if database else words


def not_stored(experiment: str, error: Exception) -> TrackingError:
    """That the artifact store of an experiment takes no files, of a server that answers."""
    hint = "install its package" if isinstance(error, ImportError) else ""
    return TrackingError(f"the artifact store of {experiment} does not take files: {own_words(error)}", hint)


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """One writer at a time on a local database, which several first writers break and many hold up; else nothing."""
    with ExitStack() as held:
        if database := local_database(uri):
            file = database.resolve()  # one lock for all its names
            if file.is_dir():
                raise TrackingError(f"{database}: a folder, not a database", ELSEWHERE)
            lock = file.with_name(f".{file.name}.lock")
            try:
                # FileLock takes a file that cannot be made for one that another process removes, and waits.
                lock.parent.mkdir(parents=True, exist_ok=True)
                lock.touch()
                held.enter_context(FileLock(lock, timeout=LOCK_SECONDS))
            except OSError as error:
                raise TrackingError(str(error), ELSEWHERE) from error
        yield


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


@contextmanager
def deleted_on_error(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Delete a run rather than leave it half filled."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what stopped the sending is what counts
            client.delete_run(run_id)
        raise


# With the defaults of MLflow and of PostgreSQL's drivers a dead server would hold the runner for minutes; and MLflow
# prints two lines to each run that it ends.
LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "5",
}
LOGGERS = {  # a new database is no news to someone who watches training, and what is raised is said once
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    "mlflow.store.db": logging.CRITICAL,
    "mlflow.system_metrics": logging.CRITICAL,  # its words may have the password of a server
    "sqlalchemy.pool": logging.CRITICAL,
}
ALLOWED = "MLFLOW_ALLOW_FILE_STORE"
SQLITE = "sqlite:///"
ARTIFACTS = "mlruns"  # as MLflow names it
PASSWORD = re.compile(r"(?<=://)(?P<user>[^\s/:@]*):[^\s]*@")  # a password may hold a slash, or an @
NAMES = r"[\w.-]*(?:token|passw|pwd|secret|api_?key|access_?key|signature|credential)[\w.-]*"
TOKEN = re.compile(rf"(?P<name>[?&]{NAMES}=)[^&\s'\")]+", re.IGNORECASE)
SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SHORTEST = 4  # characters of a secret that is looked for as such: a shorter one is part of any word
HIDDEN = "***"


def tracking_uri() -> str:
    """The store that runs go to: MLFLOW_TRACKING_URI as it is, else MLflow's own choice for the working folder."""
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.tracking import is_tracking_uri_set

    with _spelt():
        uri = str(mlflow.get_tracking_uri())
    if is_tracking_uri_set() or not uri.startswith(SQLITE):
        return _driver_named(uri)
    # MLflow quotes its path as a web address does; what opens the database reads URIs in a way of its own.
    return sqlite_uri(Path(url2pathname(uri.removeprefix(SQLITE))))


def sqlite_uri(database: Path) -> str:
    """The URI of an SQLite database, in the notation of what will open it."""
    from sqlalchemy import URL

    return _driver_named(URL.create("sqlite", database=str(database)).render_as_string(hide_password=False))


def _driver_named(uri: str) -> str:
    """The same database; with its driver named where MLflow would make a folder, called by the quoted name, for it."""
    return uri.replace("sqlite:", "sqlite+pysqlite:", 1) if uri.startswith(SQLITE) and "%" in uri else uri


def is_database(uri: str) -> bool:
    """Whether MLflow opens a database itself, rather than ask a server or read files."""
    from mlflow.store.db.db_types import DATABASE_ENGINES

    return urlsplit(uri).scheme.partition("+")[0] in DATABASE_ENGINES


def local_database(uri: str) -> Path | None:
    """The file of a store that is an SQLite database, there or not; None for any other store."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError:  # opening it reports the error
        return None
    named = url.database or ":memory:"
    return None if url.host or named == ":memory:" or named.startswith("file:") else Path(named)


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where a new experiment's files go: below the working folder for a database, None where a server decides.

    MLflow's own default there is a path that it takes for a URI, so that `50%25` becomes another folder.
    """
    with _spelt():
        str(Path.cwd()).encode()  # MLflow would read another name out of such a folder's URI, and make that folder
    return (Path.cwd() / ARTIFACTS / experiment).as_uri() if is_database(uri) else None


@contextmanager
def _spelt() -> Iterator[None]:
    """Raise TrackingError where the working folder's name cannot be spelt in a URI as MLflow reads it."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise TrackingError("it can keep nothing in a folder whose name is not UTF-8", "run in another") from error


def redacted(text: str) -> str:
    """A text without the passwords and tokens of URIs, nor those that MLflow's environment variables hold."""
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return TOKEN.sub(rf"\g<name>{HIDDEN}", PASSWORD.sub(rf"\g<user>:{HIDDEN}@", text))


def without_credentials(uri: str) -> str:
    """A server's address for a browser, which asks for the password itself."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")


def _secrets() -> list[str]:
    """What must not be seen, the longest first."""
    found = {os.environ.get(name, "") for name in SECRET_VARIABLES}
    try:
        parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    except ValueError:  # no URI: the patterns still hold
        parts = urlsplit("")
    named = (value for name, value in parse_qsl(parts.query) if re.fullmatch(NAMES, name, re.IGNORECASE))
    found |= {parts.password or "", *named}
    found |= {unquote(secret) for secret in found}
    return sorted((secret for secret in found if len(secret) >= SHORTEST), key=len, reverse=True)


VERSION, EXPERIMENTS = "alembic_version", "experiments"  # the second has MLflow's own "Default" in every whole store
# Rows that MLflow makes before a store is whole: its version, and the one workspace.
ITS_OWN = {VERSION: "1 = 1", "workspaces": "name = 'default'"}
BELONGING = ("", "-journal", "-wal", "-shm")  # SQLite's own files beside a database


def set_aside(database: Path, tell: Callable[[str], None]) -> None:
    """Rename a database that was never whole, so that a new one takes its place; any other is left as it is."""
    if not database.is_file() or not was_never_whole(database):
        return
    names = (database.with_name(f"{database.name}.unfinished{number or ''}") for number in count())
    target = next(path for path in names if not path.exists())
    for ending in reversed(BELONGING):  # the database last: until then the next attempt finds the same
        belonging = database.with_name(database.name + ending)
        if belonging.is_file():
            belonging.rename(target.with_name(target.name + ending))
    tell(f"MLflow: {database} was left unfinished and holds no run; it is now {target.name}, and a new one is made")


def was_never_whole(database: Path) -> bool:
    """Whether a database has MLflow's tables, and not a single row in them that another than MLflow can have made.

    One that cannot be read is taken for whole: it may hold something.
    """
    try:
        # Not read-only, for an interrupted transaction has to be rolled back before anything can be said.
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=5.0)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            known = VERSION in tables or EXPERIMENTS in tables
            return known and not any(_holds_more(connection, table) for table in tables)
    except sqlite3.Error:
        return False


def _holds_more(connection: sqlite3.Connection, table: str) -> bool:
    quoted, own = table.replace('"', '""'), ITS_OWN.get(table, "1 = 0")
    query = f'SELECT 1 FROM "{quoted}" WHERE NOT ({own}) LIMIT 1'  # noqa: S608 - a table's name, and a text of ours
    return connection.execute(query).fetchone() is not None
