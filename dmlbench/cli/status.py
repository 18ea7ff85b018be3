"""`dmlbench status`."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import Command, results_folders_option
from dmlbench.errors import counted, inflected

if TYPE_CHECKING:
    from collections.abc import Collection

    from dmlbench.errors import Damaged
    from dmlbench.results.store import Record, Roots, Store
    from dmlbench.results.submissions import Jobs
    from dmlbench.runner.progress import SafeConsole

REFRESH = 2.0  # seconds
ASK = 15.0  # seconds between questions to SLURM, which all users of a cluster share


@click.command("status", cls=Command)
@results_folders_option()
@click.option("--watch", is_flag=True, help="Update the display until all cells are done or failed.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, for scripts.")
@click.option("--verify", is_flag=True, help="Check every result against its spec, hash and history.")
def command(results: tuple[Path, ...], watch: bool, as_json: bool, verify: bool) -> int:
    """Show the matrix: which cells are done, running, failed, queued, interrupted or missing.

    Of cells that were submitted to SLURM it shows the job, and why one ended before its cells.

    Several --results are read as one matrix, in which a cell counts once; then machines and training code are shown.

    The exit code is 1 if files of a cell or of a submission are damaged, and 0 otherwise, also where cells failed:
    --json has their states.

    \b
    Examples:
      dmlbench status --watch
      dmlbench status --verify --results results/reference
    """
    from dmlbench.errors import UserError
    from dmlbench.results.store import Roots
    from dmlbench.results.submissions import Jobs
    from dmlbench.runner.progress import plain_or_wide

    roots, console = Roots.of(results), plain_or_wide()
    for store in roots.stores:
        store.check_readable()
    if sum((watch, as_json, verify)) > 1:
        raise UserError("--watch, --json and --verify exclude each other", hint="choose one")
    if as_json:
        look_up = Jobs()
        rows = _rows(roots, look_up)
        click.echo(json.dumps(rows, indent=1))
        damaged = {Path(str(row["folder"])) for row in rows if row["state"] == "damaged"}
        left_out = [*_left_out(roots, damaged)[1], *look_up.left_out]
        for found in left_out:
            click.echo(f"left out: {found.reason}", err=True)
        return 1 if damaged or left_out else 0
    if verify:
        return max(_verify(console, store) for store in roots.stores)
    if watch:
        _watch(console, roots)
        return 0
    return _show(console, roots)


def _rows(roots: "Roots", look_up: "Jobs") -> list[dict[str, object]]:
    from dmlbench.results.status import overview

    names = ("protocol", "variant", "dataset", "method", "seed", "hash")
    measured = ("state", "epoch", "epochs", "seconds_left", "recall_at_1", "why", "host", "code")
    return [
        {"folder": str(cell.folder)}
        | {key: getattr(cell.cell, key, None) for key in names}
        | {key: getattr(cell, key) for key in measured}
        | {"job": cell.job and {"id": cell.job.id, "state": cell.job.state, "reason": cell.job.reason}}
        for cell in overview(roots, look_up)
    ]


def _show(console: "SafeConsole", roots: "Roots") -> int:
    from rich.text import Text

    from dmlbench.cli.tables import counts, tables
    from dmlbench.results.status import overview
    from dmlbench.results.submissions import Jobs

    look_up = Jobs()
    cells = overview(roots, look_up)
    if not cells:
        store = roots.stores[0]
        console.say(f"{store.root}: no cells yet; {_trials(store)}{store.next_command()}")
        return 0
    console.print(counts(cells))
    for part in tables(cells).renderables:  # a line of words is one line, however long: its paths are copied
        console.print(part, soft_wrap=isinstance(part, Text))
    from dmlbench.results.environment import code_digest

    if other := sum(cell.code not in (None, code_digest()) for cell in cells):
        many = f"{counted(other, 'result')} {inflected(other, 'was', 'were')}"
        console.print(f"note: {many} made by other training code than this dmlbench's", markup=False)
    damaged = {cell.folder for cell in cells if cell.state == "damaged"}
    left_out = _show_origins(console, roots, damaged) if len(roots.paths) > 1 else 0
    for found in look_up.left_out:
        console.say(f"left out: {found.reason}")
    left_out += len(look_up.left_out)
    return 1 if damaged or left_out else 0


def _show_origins(console: "SafeConsole", roots: "Roots", damaged: "Collection[Path]") -> int:
    """Where the results of several folders were made; how many are left out, but for the damaged ones."""
    from dmlbench.results.environment import made_by

    records, left_out = _left_out(roots, damaged)
    for line in made_by([record.summary for record in records if record.done]):
        console.say(line)
    for found in left_out:
        console.say(f"left out: {found.reason}")
    return len(left_out)


def _left_out(roots: "Roots", damaged: "Collection[Path]") -> "tuple[list[Record], list[Damaged]]":
    """The results that count, and those of several folders that do not, but for the damaged ones."""
    if len(roots.paths) == 1:
        return [], []
    left_out: list[Damaged] = []
    records = roots.records(left_out.append)
    return records, [found for found in left_out if found.path not in damaged]


def _trials(store: "Store") -> str:
    """What tuning has left in a folder without cells."""
    from dmlbench.results.store import Store
    from dmlbench.specs.tuned import FOLDER, TRIALS

    folder = store.root / FOLDER
    count = sum(1 for _ in Store(folder / TRIALS).records(lambda _: None))
    return f"{folder} holds {counted(count, 'training')} of `dmlbench tune`; " if count else ""


def _watch(console: "SafeConsole", roots: "Roots") -> None:
    import time

    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from dmlbench.cli.tables import counts, tables
    from dmlbench.errors import UserError
    from dmlbench.results.status import overview
    from dmlbench.results.submissions import Jobs

    if not console.is_terminal:
        raise UserError("--watch: needs a terminal", hint="--json is for scripts")
    look_up = Jobs(ASK)
    cells = overview(roots, look_up)
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:  # how it is meant to end
        while True:
            left_out = [Text(f"left out: {found.reason}") for found in look_up.left_out]
            live.update(Group(counts(cells), tables(cells), *left_out), refresh=True)
            if all(cell.state in ("done", "failed", "damaged") for cell in cells):
                return
            time.sleep(REFRESH)
            cells = overview(roots, look_up)


def _verify(console: "SafeConsole", store: "Store") -> int:
    from dmlbench.errors import UserError
    from dmlbench.results.status import problems
    from dmlbench.results.store import read_summary

    folders = store.folders()
    if not folders:
        raise UserError(f"{store.root}: no cells to verify", hint="name the folder that was given to `run --results`")
    wrong = problems(store)
    for folder, found in wrong.items():
        for problem in found:
            console.say(f"{folder}: {problem}")
    if wrong:
        of = f"{len(wrong)} of {counted(len(folders), 'cell')}"
        what = inflected(
            len(wrong),
            "is not what it says; restore it from a copy, or move its folder away to run it",
            "are not what they say; restore them from a copy, or move their folders away to run them",
        )
        console.print(f"{of} {what} again")
        return 1
    results = sum(read_summary(folder) is not None for folder in folders)
    agree = inflected(results, "agrees with its spec, hash and history", "agree with their specs, hashes and histories")
    console.print(f"{counted(results, 'result')} {agree}")
    if open_ := len(folders) - results:
        have = inflected(
            open_, "has no result yet; its spec and hash agree", "have no result yet; their specs and hashes agree"
        )
        console.print(f"{counted(open_, 'cell')} {have}")
    return 0
