"""What `dmlbench run` says before it starts: nothing of it stops a run, all of it explains what comes out."""

from collections.abc import Sequence

from dmlbench.errors import Damaged, attempt, counted, inflected
from dmlbench.machine import usable_cores
from dmlbench.results.store import read_spec
from dmlbench.runner.matrix import Execution, rivals, worker_devices
from dmlbench.specs.cell import Cell, differences


def notes(cells: Sequence[Cell], todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Lines for the user about the cells of a run.

    Args:
        cells: The whole matrix.
        todo: Its cells that have no result yet.
        execution: How they run.
    """
    of_cells = [*_not_kept(cells, todo, execution), *_of_other_specs(todo, execution), *without_teacher(todo)]
    return [*of_cells, *_of_fewer_workers(todo, execution)]


def _not_kept(cells: Sequence[Cell], todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Finished cells are never run again, also not for files they did not keep."""
    waiting = {cell.hash for cell in todo}
    folders = [execution.store.folder(cell) for cell in cells if cell.hash not in waiting]
    bare = {kept: sum(not (f / f"{kept}.safetensors").is_file() for f in folders) for kept in execution.keep}
    return [
        f"note: {count} of the cells that are there {inflected(count, 'has', 'have')} no {kept}; "
        f"another --results folder runs {inflected(count, 'it', 'them')} again"
        for kept, count in bare.items()
        if count
    ]


def _of_other_specs(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Results that a report would refuse to combine with the new ones."""
    found = rivals(todo, execution.store)
    if not found:
        return []
    cell, folder = found[0]
    spec = attempt(read_spec, folder)
    differ = "its spec.yaml cannot be read" if isinstance(spec, Damaged) else differences(spec, cell)
    which = f"such as {folder} ({differ})"
    many = f"{counted(len(found), 'result')} here {inflected(len(found), 'has', 'have')}"
    remedy = "`dmlbench report` will want them deleted, or this run in another --results"
    return [f"note: {many} another spec under names of this run, {which}; {remedy}"]


def without_teacher(todo: Sequence[Cell]) -> list[str]:
    """A teacher is the network after an epoch, and its weight grows with the epoch from 0."""
    taught = [c for c in todo if c.method.distillation and c.method.distillation.teacher != "none"]
    short = list(dict.fromkeys(c.method.name for c in taught if c.protocol.training.epochs == 1))
    said = "trains like its base" if len(short) == 1 else "train like their bases"
    return [f"note: with one epoch no teacher acts; {', '.join(short)} {said}"] if short else []


def _of_fewer_workers(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """More processes than the cores hold would make all of them slower."""
    if not todo or execution.executor != "local" or not execution.workers:
        return []
    threads = max(cell.protocol.training.cpu_threads for cell in todo)
    held = len(worker_devices(execution, threads))
    if held >= execution.workers:
        return []
    each = threads + (execution.data_workers or 0)
    return [f"note: --workers {execution.workers} is lowered to {held}: {usable_cores()} cores, {each} for each cell"]
