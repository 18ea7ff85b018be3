"""`dmlbench sync`."""

from pathlib import Path

import click

from dmlbench.commands.options import Command, results_option
from dmlbench.commands.output import echo
from dmlbench.wording import counted, inflected


@click.command("sync", cls=Command)
@results_option()
def command(results: Path) -> int:
    """Send results that MLflow does not have yet. Sending twice changes nothing.

    \b
    Examples:
      dmlbench sync
      MLFLOW_TRACKING_URI=http://127.0.0.1:5000 dmlbench sync --results copied/runs
    """
    from rich.progress import track

    from dmlbench.errors import UserError
    from dmlbench.progress import plain_or_wide
    from dmlbench.store import Store

    store = Store(results)
    store.check_readable()
    records = list(store.records())
    if not records:
        hint = "name the folder that was given to `run --results`"
        raise UserError(f"{results}: no results to send", hint=hint)
    from dmlbench.tracking import TrackingError, all_in_order, connect, send

    console, sent, damaged = plain_or_wide(stderr=True), 0, 0
    try:
        client = connect()
        for record in track(records, "sending", console=console):
            try:
                sent += send(client, record)
            except UserError as error:  # of one result: the others are sent all the same
                damaged += 1
                echo(f"error: {error}", err=True)
        all_in_order(client, records)
    except TrackingError as error:
        echo(f"error: MLflow: {error.brief}; {counted(sent, 'run')} sent before", err=True)
        return 1
    there = len(records) - sent - damaged
    echo(f"{counted(sent, 'run')} sent, {there} {inflected(there, 'was', 'were')} there already")
    return 1 if damaged else 0
