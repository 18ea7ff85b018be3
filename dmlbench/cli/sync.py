"""`dmlbench sync`."""

from pathlib import Path

import click

from dmlbench.cli.options import Command, results_option
from dmlbench.cli.terminal import echo
from dmlbench.errors import counted, inflected


@click.command("sync", cls=Command)
@results_option()
def command(results: Path) -> int:
    """Log results to MLflow that it does not have yet.

    \b
    Examples:
      dmlbench sync
      MLFLOW_TRACKING_URI=http://127.0.0.1:5000 dmlbench sync --results copied/runs
    """
    from rich.progress import track

    from dmlbench.errors import Damaged, UserError
    from dmlbench.results.store import Store
    from dmlbench.runner.progress import plain_or_wide

    store = Store(results)
    store.check_readable()
    left_out: list[Damaged] = []
    records = list(store.records(left_out.append))
    for found in left_out:
        echo(f"error: {found.reason}", err=True)
    if not records and not left_out:
        hint = "name the folder that was given to `run --results`"
        raise UserError(f"{results}: no results to send", hint=hint)
    from dmlbench.tracking import TrackingError, all_in_order, connect, send_all

    console, sent, refused = plain_or_wide(stderr=True), 0, 0
    try:
        client = connect(_tell)
        for outcome in track(send_all(client, records, _tell), "sending", total=len(records), console=console):
            sent += outcome is True
            refused += outcome is None
        all_in_order(client, records)
    except TrackingError as error:
        echo(f"error: MLflow: {error.brief}; {counted(sent, 'run')} sent before", err=True)
        return 1
    there = len(records) - sent - refused
    left = f", {refused} not sent" if refused else ""
    echo(f"{counted(sent, 'run')} sent, {there} {inflected(there, 'was', 'were')} there already{left}")
    return 1 if refused or left_out else 0


def _tell(line: str) -> None:
    echo(line, err=True)
