"""What `dmlbench run` prints at its end: the comparison, and what is not done with the command that does it."""

import shlex
import sys
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from dmlbench.damaged import Damaged
from dmlbench.progress import SafeConsole
from dmlbench.report.console import comparison
from dmlbench.results import load_results
from dmlbench.spec import Cell
from dmlbench.store import Record, Store
from dmlbench.wording import counted, inflected


def print_comparison(console: SafeConsole, store: Store, cells: Sequence[Cell]) -> None:
    """Print the methods side by side, as far as there are results."""
    if not any(isinstance(record := store.record(cell), Record) and record.done for cell in cells):
        return
    results = load_results(store.root, lambda _: None)  # `print_unfinished` names what is damaged
    hashes = {cell.hash for cell in cells}
    for part in comparison(results[results["hash"].isin(hashes)]):
        console.print(part)


def print_unfinished(console: SafeConsole, store: Store, cells: Sequence[Cell]) -> int:
    """List what is not done and say what would do it; the exit code."""
    states = {cell.hash: store.state(cell) for cell in cells}
    records = [(cell, store.record(cell)) for cell in cells]
    failed = [(cell, record) for cell, record in records if isinstance(record, Record) and not record.done]
    if failed:
        _print_failed(console, failed, of=len(cells))
    running = [cell for cell in cells if states[cell.hash] == "running"]
    if running:
        more = ", ..." if len(running) > 1 else ""
        of = f"{len(running)} of {counted(len(cells), 'cell')} {inflected(len(running), 'is', 'are')}"
        which = f"{of} being run by another process ({running[0].label}{more})"
        console.say(f"{which}; repeat the command when it has ended")
    open_ = sum(state in ("interrupted", "missing") for state in states.values())
    if open_:
        of = f"{open_} of {counted(len(cells), 'cell')} {inflected(open_, 'has', 'have')} not ended"
        console.print(f"{of}; the same command goes on with {inflected(open_, 'it', 'them')}")
    damaged = print_damaged(console, store, cells)
    return 0 if all(state == "done" for state in states.values()) and not damaged else 1


def print_damaged(console: SafeConsole, store: Store, cells: Sequence[Cell]) -> int:
    """Name the results of these cells, and all others of the folder, that are left out; how many they are."""
    own = [found for cell in cells if isinstance(found := store.record(cell), Damaged)]
    places = {found.place for found in own}
    damaged = [*own, *(found for found in store.damaged() if found.place not in places)]
    for found in damaged:
        console.say(f"left out: {found.reason}")
    return len(damaged)


def _print_failed(console: SafeConsole, failed: Sequence[tuple[Cell, Record]], of: int) -> None:
    table = Table("failed", "seed", "why", box=None)
    for cell, record in failed:
        error = record.summary.get("error") or {"kind": "error", "message": "no message"}
        name = f"{cell.method.name} on {cell.dataset.name}"
        why = Text("\n  ".join((f"{error['kind']}: {error['message']}", *error.get("log", ()))))
        table.add_row(Text(name), str(cell.seed), why)
    console.print(table)
    for _, record in failed:
        console.say(f"log: {record.folder / 'log.txt'}")
    diverged = sum(record.summary.get("error", {}).get("kind") == "diverged" for _, record in failed)
    again = f" (what diverged will do so again unless a value changes: {diverged})" if diverged else ""
    them = inflected(len(failed), "it", "them")
    console.print(f"{len(failed)} of {counted(of, 'cell')} failed; to go on with {them}{again}:")
    console.say(f"  {_retrying(sys.argv[1:])}")


def _retrying(arguments: Sequence[str]) -> str:
    """The command line that was typed, with `--retry failed`."""
    again = [] if "--retry" in arguments else ["--retry", "failed"]
    return shlex.join(["dmlbench", *arguments, *again])
