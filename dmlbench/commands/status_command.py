"""`dmlbench status`."""

import json
from pathlib import Path
from typing import Any

import click

from dmlbench.commands.options import results_option


@click.command("status")
@results_option()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, for scripts.")
def command(results: Path, as_json: bool) -> None:
    """Show which cells of a results folder are done, failed, running or interrupted.

    \b
    Examples:
      dmlbench status
      dmlbench status --results results/runs --json
    """
    from dmlbench.progress import plain_or_wide
    from dmlbench.store import Store

    store = Store(results)
    store.check_readable()
    cells = [_row(folder) for folder in store.folders()]
    if as_json:
        click.echo(json.dumps(cells, indent=1))
        return
    console = plain_or_wide()
    if not cells:
        console.print(f"{results}: no cells yet; `dmlbench run` makes them", markup=False)
        return
    console.print(_table(cells))
    counts = {
        state: sum(cell["state"] == state for cell in cells) for state in ("done", "running", "failed", "interrupted")
    }
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))
    _warn_of_other_code(console, cells)


def _row(folder: Path) -> dict[str, Any]:
    from dmlbench.store import folder_state, read_spec, read_summary

    state = folder_state(folder)
    summary = read_summary(folder)
    index = summary["cell"] if summary else read_spec(folder).index()
    keys = ("protocol", "variant", "dataset", "method", "seed", "hash")
    row = {key: index[key] for key in keys} | {"state": state, "epochs_recorded": _epochs(folder)}
    if summary:
        last = (summary.get("selections") or {}).get("last", {}).get("metrics", {})
        row |= {"recall_at_1": last.get("recall_at_1"), "error": (summary.get("error") or {}).get("message")}
        row |= {"code": (summary.get("code") or {}).get("digest")}
    return row


def _epochs(folder: Path) -> int:
    """Epochs in the history, without the row of the untrained network."""
    try:
        lines = (folder / "history.csv").read_text(encoding="utf-8").count("\n")
    except OSError:
        return 0
    return max(lines - 2, 0)


def _table(cells: list[dict[str, Any]]) -> object:
    from rich.table import Table

    table = Table("protocol", "dataset", "method", "seed", "cell", "state", "epochs", "R@1", "why", box=None)
    for cell in cells:
        protocol = f"{cell['protocol']} ({cell['variant']})" if cell["variant"] else cell["protocol"]
        recall = cell.get("recall_at_1")
        figure = "" if recall is None else f"{100 * recall:.2f}"
        named = (protocol, cell["dataset"], cell["method"], str(cell["seed"]), cell["hash"][:8])
        table.add_row(*named, cell["state"], str(cell["epochs_recorded"]), figure, cell.get("error") or "")
    return table


def _warn_of_other_code(console: Any, cells: list[dict[str, Any]]) -> None:  # noqa: ANN401 - a rich Console
    from dmlbench.provenance import code_digest

    other = [cell for cell in cells if cell.get("code") not in (None, code_digest())]
    if other:
        console.print(f"note: {len(other)} results were made by other training code than this dmlbench's", markup=False)
