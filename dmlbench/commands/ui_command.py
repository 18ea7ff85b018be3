"""`dmlbench ui`."""

import subprocess
import sys

import click

# The UI opens on its pages for language models unless it is told.
PAGE = "/#/experiments?workflowType=machine_learning"


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
        return 0
    click.echo(f"MLflow UI of {uri}, Ctrl-C ends it: http://127.0.0.1:{port}{PAGE}")
    arguments = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    try:
        return subprocess.run([sys.executable, "-m", "mlflow", "ui", *arguments], check=False).returncode  # noqa: S603
    except KeyboardInterrupt:  # how it is meant to end
        return 0
