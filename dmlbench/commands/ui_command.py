"""`dmlbench ui`."""

import subprocess
import sys

import click

# The UI opens on its pages for language models unless it is told; so it does with an experiment from its list.
PAGE = "/#/experiments?workflowType=machine_learning"
MOST = 20  # experiments that are named


@click.command("ui")
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
        click.echo(f"runs go to an MLflow server, open it in a browser: {uri.rstrip('/')}{PAGE}")
        _print_links(uri.rstrip("/"))
        return 0
    click.echo(f"MLflow UI of {uri}, Ctrl-C ends it: http://127.0.0.1:{port}{PAGE}")
    _print_links(f"http://127.0.0.1:{port}")
    arguments = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    try:
        return subprocess.run([sys.executable, "-m", "mlflow", "ui", *arguments], check=False).returncode  # noqa: S603
    except KeyboardInterrupt:  # how it is meant to end
        return 0


def _print_links(server: str) -> None:
    """Print where each experiment's methods are; nothing for a store that does not answer, as the UI will say."""
    from contextlib import suppress

    from dmlbench.tracking import TrackingError, connect, pages

    with suppress(TrackingError):
        found = pages(connect())
        for name, page in list(found.items())[:MOST]:
            click.echo(f"  {name}: {server}/{page}")
        if len(found) > MOST:
            click.echo(f"  and {len(found) - MOST} more")
