"""Cells that several processes train together, here on a CPU with gloo in place of GPUs with NCCL."""

import csv
from pathlib import Path

import pytest

from dmlbench.results.events import Epoch
from dmlbench.results.store import Store, read_summary
from dmlbench.runner.cell import run_cell
from dmlbench.runner.matrix import Request, plan
from dmlbench.runner.tasks import RunOptions

SETTINGS = (
    "model.freeze_batchnorm=true", "training.epochs=3", "training.steps_per_epoch=3", "training.batch_size=16",
    "evaluation.clustering_runs=1",
)  # fmt: skip
TOGETHER = RunOptions(device="cpu", gpus_per_cell=2)


def cell_of(method: str = "ms+psd", *settings: str, methods_dir: Path | None = None):
    (cell,) = plan(Request((method,), ("glyphs",), (0,), settings=(*SETTINGS, *settings), methods_dir=methods_dir))
    return cell


def run(cell, root: Path, options: RunOptions = TOGETHER, emit=lambda _: None):
    folder = Store(root).folder(cell)
    run_cell(cell, folder, options, emit)
    return folder, read_summary(folder)


def rows(folder: Path) -> list[dict[str, float]]:
    lines = csv.DictReader((folder / "history.csv").read_text().splitlines())
    return [{key: float(value) for key, value in row.items() if not key.startswith("time/") and value} for row in lines]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder and the summary of a cell that two processes trained."""
    return run(cell_of(), tmp_path_factory.mktemp("together"))


def test_two_processes_give_the_cell_that_one_gives(together, tmp_path):
    folder, summary = together
    assert summary.status == "done", summary.error
    assert summary.environment.gpus_per_cell == 2
    alone, of_one = run(cell_of(), tmp_path, RunOptions(device="cpu"))
    assert of_one.environment.gpus_per_cell is None
    for found, expected in zip(rows(folder), rows(alone), strict=True):
        losses = {key: value for key, value in expected.items() if key.startswith("train/")}
        assert {key: found[key] for key in losses} == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert rows(folder)[0] == rows(alone)[0]


def test_the_cell_resumes_after_a_stop_to_the_same_numbers(together, tmp_path):
    def stop(event):
        if isinstance(event, Epoch) and event.epoch == 2:
            raise SystemExit(0)

    with pytest.raises(SystemExit):
        run(cell_of(), tmp_path, emit=stop)
    folder, summary = run(cell_of(), tmp_path)
    assert summary.resumed == [2]
    assert rows(folder) == rows(together[0])
