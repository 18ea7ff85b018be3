"""Cells as a runner begins and ends them."""

from typing import Any

from dmlbench.results.store import Store
from dmlbench.results.writer import CellWriter
from dmlbench.specs.cell import Cell


def begin(store: Store, cell: Cell) -> CellWriter:
    folder = store.folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    writer = CellWriter(folder)
    writer.begin(cell)
    return writer


def ended(cell: Cell, status: str = "done", **changes: Any) -> dict[str, Any]:
    """The least that a summary of a cell has."""
    summary: dict[str, Any] = {"status": status, "cell": cell.index(), "started": "2026-01-02T03:04:05+00:00"}
    summary |= {"environment": {}, "total_s": 4.0}
    if status == "failed":
        return summary | {"error": {"kind": "diverged", "class": "DivergedError", "message": "loss is nan"}} | changes
    one = {"epochs": {"recall_at_1": 2}, "metrics": {"recall_at_1": 0.5}}
    summary |= {"selections": {"last": one, "best_test": one}, "timing": {"step_ms": 12.5, "train_s": 4.0}}
    return summary | {"dataset": {"name": cell.dataset.name, "version": "test", "fingerprint": "f00d"}} | changes
