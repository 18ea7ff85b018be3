"""`dmlbench sync`."""

from pathlib import Path

import click

from dmlbench.commands.options import results_option


@click.command("sync")
@results_option()
def command(results: Path) -> int:
    """Send results that MLflow does not have yet. Sending twice changes nothing.

    \b
    Examples:
      dmlbench sync
      MLFLOW_TRACKING_URI=http://127.0.0.1:5000 dmlbench sync --results copied/runs
    """
    from rich.progress import track

    from dmlbench.progress import plain_or_wide
    from dmlbench.store import Store

    store = Store(results)
    store.check_readable()
    records = list(store.records())
    from dmlbench.tracking import TrackingError, connect, send

    console = plain_or_wide(stderr=True)
    try:
        client = connect()
        sent = sum(send(client, record) for record in track(records, "sending", console=console))
    except TrackingError as error:
        click.echo(f"error: MLflow: {str(error).splitlines()[0]}", err=True)
        return 1
    click.echo(f"{sent} runs sent, {len(records) - sent} were there already")
    return 0
