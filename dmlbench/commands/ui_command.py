"""`dmlbench ui`."""

import subprocess
import sys

import click

from dmlbench.commands.options import Command
from dmlbench.commands.output import echo

# The UI opens on its pages for language models unless it is told; so it does with an experiment from its list.
PAGE = "/#/experiments?workflowType=machine_learning"
MOST = 20  # experiments that are named


@click.command("ui", cls=Command)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on this machine.")
def command(port: int) -> int:
    """Open the MLflow UI on the store that runs go to. It listens on this machine only.

    \b
    Examples:
      dmlbench ui
      dmlbench ui --port 5001
    """
    from dmlbench.errors import UserError
    from dmlbench.tracking import local_database, tracking_uri

    uri = tracking_uri()
    database = local_database(uri)
    if database is not None and not database.is_file():
        hint = "`dmlbench run` or `dmlbench sync` in this folder sends some, MLFLOW_TRACKING_URI names another store"
        raise UserError(f"{database}: no runs yet", hint=hint)
    if uri.startswith(("http://", "https://")):
        echo(f"runs go to an MLflow server, open it in a browser: {uri.rstrip('/')}{PAGE}")
        _print_links(uri.rstrip("/"))
        return 0
    _check_free(port)
    echo(f"MLflow UI of {uri}, Ctrl-C ends it: http://127.0.0.1:{port}{PAGE}")
    _print_links(f"http://127.0.0.1:{port}")
    arguments = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    return _serve([sys.executable, "-m", "mlflow", "ui", *arguments])


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


def _serve(command_line: list[str]) -> int:
    """Run the server with all its processes until it is interrupted; they end with us."""
    import os
    import signal
    from contextlib import suppress

    server = subprocess.Popen(command_line, start_new_session=True)  # noqa: S603 - our own arguments
    try:
        return server.wait()
    except KeyboardInterrupt:  # how it is meant to end
        return 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _print_links(server: str) -> None:
    """Print where each experiment's methods are; nothing for a store that does not answer, as the UI will say."""
    from contextlib import suppress

    from dmlbench.tracking import TrackingError, connect, pages

    with suppress(TrackingError):
        found = pages(connect())
        for name, page in list(found.items())[:MOST]:
            echo(f"  {name}: {server}/{page}")
        if len(found) > MOST:
            echo(f"  and {len(found) - MOST} more")
