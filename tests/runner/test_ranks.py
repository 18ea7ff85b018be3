"""Cells that several processes train together, here on a CPU with gloo in place of GPUs with NCCL."""

import csv
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dmlbench.results.events import Epoch, Finished
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


FAILING = """
import os, time
import torch.distributed as dist
from dmlbench.modifiers import Modifier

class Failing(Modifier):
    def loss(self, outputs, context):
        {body}
"""
YAML = """
name: failing
kind: modifier
title: Failing
plugin: failing.py
class: Failing
paper: null
parameters:
  lambda: {value: 1.0, published: false, source: ours}
"""
# A rank's loss in the second epoch, and what the cell's failure says of it.
FAILURES = {
    "raises": ("if dist.get_rank() == 1: raise ValueError('no such thing')", "error", "rank 1: .*no such thing"),
    "dies": ("if dist.get_rank() == 1: os.kill(os.getpid(), 9)", "died", "rank 1: the worker process .* SIGKILL"),
    "has other weights": ("", "error", "rank 1: its initial weights"),
    "of rank 0": ("if dist.get_rank() == 0: raise ValueError('not me')", "error", "^ValueError: not me"),
}


def failing(folder: Path, body: str) -> Path:
    """A methods folder whose modifier fails in the second epoch."""
    folder.mkdir()
    (folder / "failing.yaml").write_text(YAML)
    lines = f"if context.epoch == 1:\n            {body or 'pass'}"
    (folder / "failing.py").write_text(FAILING.replace("{body}", lines))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("body", "kind", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failure_of_a_rank_is_the_cells_with_its_reason(tmp_path, monkeypatch, body, kind, message):
    cell = cell_of("ms+failing", methods_dir=failing(tmp_path / "methods", body))
    if not body:
        monkeypatch.setattr("dmlbench.runner.cell.provenance.weights_digest", lambda _: "0" * 16)
    events = []
    folder, summary = run(cell, tmp_path / "runs", emit=events.append)
    assert summary.status == "failed"
    assert re.search(message, summary.error.message)
    assert summary.error.kind == kind
    assert isinstance(events[-1], Finished)
    assert (folder / "history.csv").is_file() == bool(body)
    if body:
        assert len(rows(folder)) == 2
    assert not multiprocessing.active_children()


RUNNER = """
import sys
from pathlib import Path
from dmlbench.results.store import Store
from dmlbench.runner import ranks
from dmlbench.runner.local import run_local
from dmlbench.runner.signals import Interrupts
from dmlbench.runner.tasks import RunOptions, Task
from tests.runner.test_ranks import cell_of

def main():
    method, methods_dir, root = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    cell = cell_of(method, methods_dir=methods_dir if methods_dir.is_dir() else None)
    with Interrupts(print) as interrupts:
        run_local(
            [Task(cell, Store(root).folder(cell))], RunOptions(device="cpu", gpus_per_cell=2), ["cpu"], threads=1,
            on_event=lambda task, event: print(type(event).__name__, flush=True), interrupts=interrupts,
        )

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def runner(tmp_path):
    """Starts a runner of a cell in a process of its own."""
    script = tmp_path / "runner.py"
    script.write_text(RUNNER)
    here = Path(__file__).parents[2]
    started = []

    def start(method: str, root: Path, methods_dir: Path = Path("none")) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), method, str(methods_dir), str(root)]
        environment = {**os.environ, "PYTHONPATH": str(here)}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_runner_leaves_no_rank_and_is_resumed(together, runner, tmp_path):
    first = runner("ms+psd", tmp_path / "runs")
    assert next(line for line in first.stdout if line == "Epoch\n")
    below = psutil.Process(first.pid).children(recursive=True)
    ranks = [own for own in below if "spawn_main" in " ".join(own.cmdline())]
    assert len(ranks) == 2  # rank 0 and rank 1
    first.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive
    folder, summary = run(cell_of(), tmp_path / "runs")
    assert summary.status == "done"
    assert rows(folder) == rows(together[0])


@pytest.mark.slow
def test_a_rank_that_never_hears_of_a_failure_is_ended(runner, tmp_path):
    """As with NCCL: rank 0 hangs, rank 1 has died."""
    body = "os.kill(os.getpid(), 9) if dist.get_rank() == 1 else time.sleep(600)"
    methods = failing(tmp_path / "methods", body)
    said, _ = runner("ms+failing", tmp_path / "runs", methods).communicate(timeout=120)
    assert said.splitlines()[-1] == "Finished"
    summary = read_summary(Store(tmp_path / "runs").folder(cell_of("ms+failing", methods_dir=methods)))
    assert summary.status == "failed"
    assert "SIGKILL" in summary.error.message


@pytest.mark.slow
def test_checkpoints_of_another_number_of_gpus_are_left_out(tmp_path):
    """Their sums are in another order, and a cell's numbers are the same whether it was interrupted or not."""

    def stop(event):
        if isinstance(event, Epoch) and event.epoch == 1:
            raise SystemExit(0)

    with pytest.raises(SystemExit):
        run(cell_of(), tmp_path, emit=stop)
    folder, summary = run(cell_of(), tmp_path, RunOptions(device="cpu"))
    assert summary.resumed == []
    assert "GPUs 2, now None" in (folder / "log.txt").read_text()
