"""Cells as a runner begins them."""

from dmlbench.spec import Cell
from dmlbench.store import Store
from dmlbench.writer import CellWriter


def begin(store: Store, cell: Cell) -> CellWriter:
    folder = store.folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    writer = CellWriter(folder)
    writer.begin(cell)
    return writer
