"""What `dmlbench run` prints at its end: the comparison, and what is not done with the command that does it.

The matrix of a results folder as tables: methods by seeds, and what runs, failed or is damaged.

What `dmlbench overhead` prints: costs, phases, and whether an earlier measurement agrees.
"""

import math
import shlex
import sys
from collections.abc import Sequence

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dmlbench.analysis.costs import agreements, doubts, measured_overhead, measured_phases, phase_order
from dmlbench.errors import Damaged, counted, inflected
from dmlbench.reporting.console import comparison
from dmlbench.results.frames import load_results
from dmlbench.results.measurements import Measurement
from dmlbench.results.status import STATES, CellState
from dmlbench.results.store import Record, Store
from dmlbench.runner.progress import SafeConsole
from dmlbench.specs.cell import Cell


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
        console.print(f"{of}; rerun the same command to resume")
    damaged = print_damaged(console, store, cells)
    return 0 if all(state == "done" for state in states.values()) and not damaged else 1


def print_damaged(console: SafeConsole, store: Store, cells: Sequence[Cell]) -> int:
    """Name the results of these cells, and all others of the folder, that are left out; how many they are."""
    own = [found for cell in cells if isinstance(found := store.record(cell), Damaged)]
    own_paths = {found.path for found in own}
    damaged = [*own, *(found for found in store.damaged() if found.path not in own_paths)]
    for found in damaged:
        console.say(f"left out: {found.reason}")
    return len(damaged)


def _print_failed(console: SafeConsole, failed: Sequence[tuple[Cell, Record]], of: int) -> None:
    table = Table("failed", "seed", "why", box=None)
    for cell, record in failed:
        name = f"{cell.method.name} on {cell.dataset.name}"
        error = record.summary.error
        why = Text("\n  ".join((str(error), *error.log)) if error else "")
        table.add_row(Text(name), str(cell.seed), why)
    console.print(table)
    for _, record in failed:
        console.say(f"log: {record.folder / 'log.txt'}")
    diverged = sum(record.summary.error.kind == "diverged" if record.summary.error else 0 for _, record in failed)
    again = f" (what diverged will do so again unless a value changes: {diverged})" if diverged else ""
    them = inflected(len(failed), "it", "them")
    console.print(f"{len(failed)} of {counted(of, 'cell')} failed; to resume {them}{again}:")
    console.say(f"  {_retrying(sys.argv[1:])}")


def _retrying(arguments: Sequence[str]) -> str:
    """The command line that was typed, with `--retry failed`."""
    again = [] if "--retry" in arguments else ["--retry", "failed"]
    return shlex.join(["dmlbench", *arguments, *again])


STYLES = {"running": "cyan", "failed": "red", "damaged": "red", "interrupted": "yellow", "missing": "dim"}


def tables(cells: Sequence[CellState]) -> Group:
    """One table for each protocol and dataset, then the cells that need words."""
    groups: dict[tuple[str, str, str], list[CellState]] = {}
    for cell in cells:
        if cell.cell:
            key = (cell.cell.protocol, cell.cell.variant, cell.cell.dataset)
            groups.setdefault(key, []).append(cell)
    parts: list[RenderableType] = []
    for (protocol, variant, dataset), group in groups.items():
        parts += [Text(f"{protocol} on {dataset}{f' ({variant})' if variant else ''}", "bold"), _matrix(group), ""]
    legend = ["figures: R@1 (%) at the last epoch"] if any(cell.state == "done" for cell in cells) else []
    return Group(*parts, *_in_words(cells), *legend)


def counts(cells: Sequence[CellState]) -> str:
    """How many cells are in each state."""
    found = {state: sum(cell.state == state for cell in cells) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in found.items() if count)


def _matrix(cells: Sequence[CellState]) -> Table:
    indexed = [(cell, cell.cell) for cell in cells if cell.cell]
    seeds = sorted({index.seed for _, index in indexed})
    table = Table("method", box=None)
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    by_row: dict[tuple[str, int], list[CellState]] = {}
    for cell, index in indexed:
        by_row.setdefault((index.method, index.seed), []).append(cell)
    for method in dict.fromkeys(method for method, _ in by_row):
        table.add_row(method, *(_figure(by_row.get((method, seed), ())) for seed in seeds))
    return table


def _figure(cells: Sequence[CellState]) -> Text:
    """One entry of the matrix; several cells where a method or protocol was edited in between."""
    return Text(" ").join(_one_figure(cell) for cell in cells) if cells else Text("-")


def _one_figure(cell: CellState) -> Text:
    if cell.state == "done":
        return Text("done" if cell.recall_at_1 is None else f"{100 * cell.recall_at_1:.2f}")
    words = cell.state
    if cell.state in ("running", "interrupted"):
        words = f"{cell.state} {cell.epoch}/{cell.epochs}"
    return Text(words, style=STYLES[cell.state])


def _in_words(cells: Sequence[CellState]) -> list[RenderableType]:
    lines = [Text(f"{cell.state}: {_label(cell)}: {_what(cell)}", STYLES[cell.state]) for cell in cells if _what(cell)]
    states = {cell.state for cell in cells}
    if "failed" in states:
        lines.append(Text("`dmlbench run ... --retry failed` resumes failed cells from their last epoch"))
    if states & {"missing", "interrupted"} and "running" not in states:
        lines.append(Text("the same `dmlbench run` resumes the rest; delete a folder to drop its cell"))
    return list(lines)


def _label(cell: CellState) -> str:
    index = cell.cell
    return f"{index.method} on {index.dataset}, seed {index.seed}" if index else "a cell"


def _what(cell: CellState) -> str:
    if cell.state == "running":
        left = "" if cell.seconds_left is None else f", about {_duration(cell.seconds_left)} left"
        return f"epoch {cell.epoch} of {cell.epochs}{left}, on {cell.host}"
    return f"{cell.why} ({cell.folder / 'log.txt'})" if cell.state == "failed" else cell.why


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def print_costs(console: Console, measurement: Measurement) -> None:
    """A row a method with its step, its ratio and its memory; then the phases of its step."""
    costs = measured_overhead(measurement)
    console.print(f"\n{measurement.title}; batch {measurement.batch_size}", markup=False)
    columns = ("method", "step (ms)", "ratio to base", "added phases", "same work", f"over {measurement.epochs} epochs")
    table = Table(*columns, "arithmetic", "images/s", "peak (MiB)", box=None)
    for row in costs.to_dict("records"):
        modified = bool(row["modifier"])
        ratio = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if modified else ""
        keys = ("added", "same_work", "over_training", "arithmetic")
        rest = ("" if not modified or math.isnan(row[key]) else f"{row[key]:.3f}" for key in keys)
        figures = f"{row['images_per_s']:.0f}", f"{row['peak_mb']:.0f}"
        table.add_row(row["method"], f"{row['step_ms']:.2f}", ratio, *rest, *figures)
    console.print(table)
    console.print(f"{measurement.how}; a ratio is formed within a round", markup=False)
    console.print(
        "with a teacher, added phases: it and distillation over the base's step; same work: forward, loss and "
        "optimiser over the base's, 1 but for noise"
    )
    console.print(_phases(measured_phases(measurement)))
    for doubt in doubts(measurement):
        console.print(f"note: {doubt}", markup=False, style="yellow")


def print_agreement(console: Console, measurement: Measurement, earlier: Sequence[Measurement]) -> None:
    """Whether the latest of the earlier ones of each method, by the same code on the same machine, says the same."""
    for found in agreements(earlier, measurement):
        verdict = "agrees" if found.agree else "DISAGREES"
        ratios = f"{found.earlier.mean:.3f} [{found.earlier.low:.3f}, {found.earlier.high:.3f}]"
        console.print(f"{found.method}: {verdict} with {ratios} of {found.before}", markup=False)


def _phases(phases: pd.DataFrame) -> Table:
    names = phase_order(phases)
    table = Table("phase (ms)", *names, box=None)
    for method, own in phases.groupby("method", sort=False):
        by_phase = dict(zip(own["phase"], own["ms"], strict=True))
        table.add_row(str(method), *(f"{by_phase[name]:.2f}" if name in by_phase else "" for name in names))
    return table
