"""The matrix of a results folder as tables: methods by seeds, and what runs, failed or is damaged."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dmlbench.overview import STATES, CellState

STYLES = {"running": "cyan", "failed": "red", "damaged": "red", "interrupted": "yellow", "missing": "dim"}


def tables(cells: Sequence[CellState]) -> Group:
    """One table for each protocol and dataset, then the cells that need words."""
    groups: dict[tuple[str, str, str], list[CellState]] = {}
    for cell in cells:
        if cell.index:
            key = (cell.index["protocol"], cell.index["variant"], cell.index["dataset"])
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
    seeds = sorted({int(cell.index["seed"]) for cell in cells})
    table = Table("method", box=None)
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    places: dict[tuple[str, int], list[CellState]] = {}
    for cell in cells:
        places.setdefault((str(cell.index["method"]), int(cell.index["seed"])), []).append(cell)
    for method in dict.fromkeys(method for method, _ in places):
        table.add_row(method, *(_figure(places.get((method, seed), ())) for seed in seeds))
    return table


def _figure(cells: Sequence[CellState]) -> Text:
    """One place of the matrix; several cells where a method or protocol was edited in between."""
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
        lines.append(Text("`dmlbench run ... --retry failed` goes on with what failed, from its last epoch"))
    if states & {"missing", "interrupted"} and "running" not in states:
        lines.append(Text("the same `dmlbench run` goes on with the rest; delete a folder to drop its cell"))
    return list(lines)


def _label(cell: CellState) -> str:
    return f"{cell.index['method']} on {cell.index['dataset']}, seed {cell.index['seed']}" if cell.index else "a cell"


def _what(cell: CellState) -> str:
    if cell.state == "running":
        left = "" if cell.seconds_left is None else f", about {_duration(cell.seconds_left)} left"
        return f"epoch {cell.epoch} of {cell.epochs}{left}, on {cell.host}"
    return f"{cell.why} ({cell.folder / 'log.txt'})" if cell.state == "failed" else cell.why


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
