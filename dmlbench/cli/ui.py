"""`dmlbench ui`."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from dmlbench.cli.options import Command, Whole
from dmlbench.cli.terminal import echo

# Without this the UI opens its pages for language models, for the list and for each experiment.
PAGE = "/#/experiments?workflowType=machine_learning"
MOST = 20  # experiments that are named
MOST_REPORTS = 5
LAST_LINES = 20  # of the server's log, where it fails
DESKTOP = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")  # any of these is set where a browser can be started
# The server would take modules from the working folder, and name its address, which opens on the wrong page.
SERVER_OPTIONS = f"--app-dir {os.devnull} --log-level warning"


@click.command("ui", cls=Command)
@click.option("--port", type=Whole(1, 65535), default=5000, show_default=True, help="Port of the server.")
@click.option(
    "--browser/--no-browser",
    default=None,
    help="Open the runs of the first experiment in a browser [default: if started from a terminal on a desktop].",
)
def command(port: int, browser: bool | None) -> int:
    """Serve the MLflow UI of the store that runs are logged to. It can be reached from this machine only.

    \b
    Examples:
      dmlbench ui
      dmlbench ui --port 5001 --no-browser
    """
    from dmlbench.errors import UserError
    from dmlbench.tracking import TrackingError, local_database, redacted, tracking_uri, without_credentials

    try:
        uri = tracking_uri()
    except TrackingError as error:
        raise UserError(f"MLflow: {error.brief}") from error
    database = local_database(uri)
    if database is not None and not database.exists():
        hint = "`dmlbench run` or `dmlbench sync` in this folder sends some, MLFLOW_TRACKING_URI names another store"
        raise UserError(f"{database}: no runs yet", hint=hint)
    if uri.startswith(("http://", "https://")):
        found, problem = _pages()
        _print_links(without_credentials(uri), found, "runs go to an MLflow server")
        _open(without_credentials(uri), found, browser)
        if problem:
            echo(f"warning: MLflow: {problem}", err=True)
        return 0
    found, problem = _pages()
    if problem:
        raise UserError(f"MLflow: {problem}")
    _check_free(port)
    server = f"http://127.0.0.1:{port}"

    def ready() -> None:
        _print_links(server, found, f"MLflow UI of {database or redacted(uri)}, Ctrl-C ends it")
        _open(server, found, browser)

    echo("starting the MLflow UI, up to half a minute ...", err=True)
    return _serve(uri, port, ready)


def _check_free(port: int) -> None:
    """Raise UserError where another server listens: its pages would be taken for ours."""
    import socket

    from dmlbench.errors import UserError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"--port {port}: {error.strerror}", hint=f"try --port {port % 65535 + 1}") from None


def _serve(uri: str, port: int, ready: Callable[[], None]) -> int:
    """Run the server with all its processes until it is interrupted; they end with us.

    `ready` is called once, when the server answers.
    """
    command_line = [sys.executable, "-P", "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    # A command line is seen by all users of a machine, so the URI, which may hold a password, is none of it.
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_UVICORN_OPTS": SERVER_OPTIONS}
    with tempfile.TemporaryFile() as log:  # what a server says of itself is of no use, unless it cannot serve
        server = subprocess.Popen(  # noqa: S603 - our own arguments
            command_line, start_new_session=True, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        if _until_interrupted(server, port, ready):
            return 0
        log.seek(0)
        for line in log.read().decode(errors="replace").splitlines()[-LAST_LINES:]:
            echo(line, err=True)
    echo("error: the MLflow server ended; its last lines are above", err=True)
    return 1


def _until_interrupted(server: "subprocess.Popen[bytes]", port: int, ready: Callable[[], None]) -> bool:
    """End a server where we are interrupted, which is how it is meant to end; False where it ended before."""
    import signal
    from contextlib import suppress

    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.2)
        if server.poll() is None:
            ready()
        server.wait()
    except KeyboardInterrupt:
        return True
    else:
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _answers(port: int) -> bool:
    """Whether the server is up; asked without a proxy that may be set for other addresses."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _open(server: str, found: dict[str, str], browser: bool | None) -> None:
    """Open the runs of the first experiment, or the list where there are none, if asked to or on a desktop."""
    import webbrowser

    # Without a desktop, webbrowser would start a text browser in this terminal.
    desktop = sys.platform in ("darwin", "win32") or any(map(os.environ.get, DESKTOP))
    if browser or (browser is None and sys.stdout.isatty() and desktop):
        page = f"/{next(iter(found.values()))}" if found else PAGE
        if not webbrowser.open(f"{server}{page}"):
            echo("warning: no browser could be started; open a link above in one", err=True)


def _pages() -> tuple[dict[str, str], str]:
    """The way to the runs of each experiment, by its name; and why there is none, where the store is not usable."""
    from dmlbench.tracking import TrackingError, connect, pages

    try:
        return pages(connect(lambda line: echo(line, err=True))), ""
    except TrackingError as error:
        return {}, error.brief


def _print_links(server: str, found: dict[str, str], what: str) -> None:
    """Print where each experiment's runs are, and then the list of all: its own links open on other pages."""
    echo(f"{what}; {'open the runs of an experiment in a browser:' if found else 'no runs of dmlbench are there yet'}")
    for name, page in list(found.items())[:MOST]:
        echo(f"  {server}/{page}  {name}")
    if len(found) > MOST:
        echo(f"  and {len(found) - MOST} more")
    echo(f"all experiments: {server}{PAGE}")
    made = sorted(Path("reports").glob("*/index.html"), key=lambda page: page.stat().st_mtime, reverse=True)
    for report in made[:MOST_REPORTS]:
        echo(f"report: {report.resolve().as_uri()}")
