"""Where runs and their files go: the store's URI, its file, the folder of artifacts, and what of a URI is secret."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import url2pathname

LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
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
    set_limits()
    import mlflow
    from mlflow.tracking import is_tracking_uri_set

    uri = str(mlflow.get_tracking_uri())
    if is_tracking_uri_set() or not uri.startswith(SQLITE):
        return uri
    # MLflow quotes its path as a web address does; what opens the database reads URIs in a way of its own.
    return sqlite_uri(Path(url2pathname(uri.removeprefix(SQLITE))))


def sqlite_uri(database: Path) -> str:
    """The URI of an SQLite database, in the notation of what will open it."""
    from sqlalchemy import URL

    plain = SQLITE + str(database)
    quoted = URL.create("sqlite", database=str(database)).render_as_string(hide_password=False)
    # MLflow makes the folder of a plain `sqlite:///` by its quoted name; with the driver named it makes none.
    return plain if quoted == plain else quoted.replace("sqlite:", "sqlite+pysqlite:", 1)


def local_database(uri: str) -> Path | None:
    """The file of a store that is an SQLite database, there or not; None for any other store."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError:  # whoever opens it will say so
        return None
    named = url.database or ":memory:"
    return None if url.host or named == ":memory:" or named.startswith("file:") else Path(named)


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where a new experiment's files go: into the working folder where a database is written to directly.

    MLflow's own default there is a path that it takes for a URI, so that `50%25` becomes another folder.

    Returns:
        None where a server decides.
    """
    from mlflow.store.db.db_types import DATABASE_ENGINES

    direct = urlsplit(uri).scheme.partition("+")[0] in DATABASE_ENGINES
    return (Path.cwd() / ARTIFACTS / experiment).as_uri() if direct else None


def redacted(text: str) -> str:
    """A text without the passwords and tokens of URIs, nor those that MLflow's environment variables hold."""
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return TOKEN.sub(rf"\g<name>{HIDDEN}", PASSWORD.sub(rf"\g<user>:{HIDDEN}@", text))


def without_credentials(uri: str) -> str:
    """A server's address for a browser, which asks for the password itself."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")


def set_limits() -> None:
    """Two seconds and one retry: with MLflow's defaults a dead server would hold the runner for minutes."""
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)


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
