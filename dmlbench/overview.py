"""Every planned cell of a results folder and where it stands."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dmlbench.claims import holder
from dmlbench.errors import UserError
from dmlbench.history import HISTORY, Row, read_history
from dmlbench.store import Store, folder_state, read_spec, read_summary
from dmlbench.verification import changed_files
from dmlbench.writer import SPEC

STATES = ("done", "running", "failed", "interrupted", "missing", "damaged")


@dataclass(frozen=True)
class CellState:
    """Where a cell stands.

    Args:
        folder: Its folder.
        state: One of `STATES`; damaged where its files cannot be read.
        index: Its place in tables (`Cell.index`); empty for a damaged one.
        epoch: Epochs trained.
        epochs: Epochs to train; None where only the spec of a damaged cell would tell.
        seconds_left: What the epochs to come take by those that were; None where it does not run.
        recall_at_1: At the last epoch, a fraction; None without a result.
        why: Why it failed, or what is damaged.
        host: Where it runs.
        code: Digest of the training code that made the result.
    """

    folder: Path
    state: str
    index: dict[str, Any]
    epoch: int = 0
    epochs: int | None = None
    seconds_left: float | None = None
    recall_at_1: float | None = None
    why: str = ""
    host: str = ""
    code: str | None = None


def overview(store: Store) -> list[CellState]:
    """Every cell that was ever planned, in path order; a damaged one is a state, not an error."""
    return [_look(folder) for folder in store.folders()]


def _look(folder: Path) -> CellState:
    try:
        summary, rows = read_summary(folder), read_history(folder)
        epoch = max((int(row["epoch"] or 0) for row in rows), default=0)
        if summary is not None:
            if changed := changed_files(folder, summary, (SPEC, HISTORY)):
                return CellState(folder, "damaged", {}, why=f"{folder}: {changed[0]}")
            return _ended(folder, summary, epoch)
        cell, state, owner = read_spec(folder), folder_state(folder), holder(folder)
    except UserError as error:
        return CellState(folder, "damaged", {}, why=str(error))
    epochs = cell.protocol.training.epochs
    left = _seconds_left(rows, epochs - epoch) if state == "running" else None
    return CellState(folder, state, cell.index(), epoch, epochs, left, host=owner.name if owner else "")


def _ended(folder: Path, summary: dict[str, Any], epoch: int) -> CellState:
    error = summary.get("error") or {}
    last = (summary.get("selections") or {}).get("last", {}).get("metrics", {})
    return CellState(
        folder,
        "done" if summary["status"] == "done" else "failed",
        summary.get("cell") or {},
        epoch,
        epoch if summary["status"] == "done" else None,
        recall_at_1=last.get("recall_at_1"),
        why=": ".join(filter(None, (error.get("kind"), error.get("message")))),
        code=(summary.get("code") or {}).get("digest"),
    )


def _seconds_left(rows: list[Row], epochs: int) -> float | None:
    spent = [(row.get("time/train_s") or 0) + (row.get("time/evaluation_s") or 0) for row in rows if row["epoch"]]
    return epochs * median(spent) if spent else None
