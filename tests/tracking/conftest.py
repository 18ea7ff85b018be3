"""Results to send, and a store in a folder of the test's own."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dmlbench.results.history import selections, timing
from dmlbench.results.store import Record, Store
from dmlbench.results.writer import CellWriter
from dmlbench.specs.cell import Cell
from dmlbench.tracking import connect
from tests.begun import ended


def row(epoch: int) -> dict:
    times = {"time/train_s": 1.0 if epoch else None, "time/evaluation_s": 0.5, "time/step_ms": 2.0 if epoch else None}
    return {"epoch": epoch, "test/recall_at_1": epoch / 10} | times


@pytest.fixture
def begun(tmp_path, make_cell) -> Callable[..., CellWriter]:
    """Plans a cell and writes so many rows of its history."""

    def begin(seed: int = 0, epochs: int = 0, root: Path = tmp_path / "runs", cell: Cell | None = None) -> CellWriter:
        store, cell = Store(root), cell or make_cell(seed=seed)
        store.plan([cell])
        writer = CellWriter(store.folder(cell))
        for epoch in range(epochs):
            writer.append(row(epoch))
        return writer

    return begin


@pytest.fixture
def finished(begun, make_cell) -> Callable[..., Record]:
    """A result as a run leaves it."""

    def finish(
        writer: CellWriter | None = None, *, seed: int = 0, status: str = "done", started: str = "2026",
        code: str = "abcd", cell: Cell | None = None, **environment: object,
    ) -> Record:  # fmt: skip
        cell = cell or make_cell(seed=seed)
        writer = writer or begun(epochs=3, cell=cell)
        own = {"started": f"{started}-11-21T10:00:00+00:00", "environment": environment, "code": {"digest": code}}
        if status == "done":
            own |= {"selections": selections(writer.rows), "timing": timing(writer.rows)}
        else:
            own |= {"error": {"kind": "error", "class": "E", "message": "broke"}}
        writer.finish(ended(cell, status, **own))
        record = Store(writer.folder.parents[3]).record(cell)
        assert isinstance(record, Record)
        return record

    return finish


@pytest.fixture
def in_folder(tmp_path, monkeypatch) -> Path:
    """Nobody's MLflow settings but the test's, and its folder as the working one."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """MLflow's tables without a run; to make them takes seconds, to copy them none."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(in_folder, monkeypatch, empty_database) -> Iterator[MlflowClient]:
    shutil.copy(empty_database, in_folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{in_folder / 'mlflow.db'}")
    return connect()
