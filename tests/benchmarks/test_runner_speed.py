"""What the machinery costs, and what a second worker brings, on conv4-64 and glyphs.

    pytest -m benchmark tests/benchmarks/test_runner_speed.py -s

The first compares cells run with their store, checkpoints, claim, progress display and MLflow's mirror, all in the
training process (in a run they are the parent's, beside it), with the same cells of which nothing is written. The
second runs eight cells with one worker and with two, by the command line.
"""

import csv
import io
import itertools
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from dmlbench.results.store import Store
from dmlbench.results.writer import CellWriter
from dmlbench.runner import cell as cell_module
from dmlbench.runner.matrix import Request, plan
from dmlbench.runner.progress import Display, SafeConsole
from dmlbench.runner.tasks import RunOptions
from dmlbench.tracking import Mirror
from tests.benchmarks.by_turns import time_by_turns
from tests.tracking.servers import failing, hanging

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of MLflow's libraries
EPOCHS = 10
HEADING = "What the runner costs, and what a second worker brings"


class Unwritten(CellWriter):
    """Keeps the rows and writes nothing."""

    def begin(self, cell):
        pass

    def restart(self):
        pass

    def append(self, row):
        self.rows.append(row)

    def log(self, line):
        pass

    def finish(self, summary):
        pass


@pytest.fixture
def cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (planned,) = plan(Request(("ms",), ("glyphs",), (0,), settings=(f"training.epochs={EPOCHS}",)))
    return planned


def test_the_machinery_costs_less_than_three_hundredths(cell, tmp_path, monkeypatch, row):
    count = itertools.count()
    options = RunOptions(device="cpu")

    def bare():
        with monkeypatch.context() as patch:
            patch.setattr(cell_module.checkpoint, "save", lambda *_: None)
            patch.setattr(cell_module.checkpoint, "load", lambda _, made_by, __: cell_module.Checkpoint(dict(made_by)))
            folder = tmp_path / f"bare{next(count)}"
            folder.mkdir()
            cell_module.run_claimed(cell, Unwritten(folder), options, lambda _: None)

    def run(tracked: bool):
        store = Store(tmp_path / f"run{next(count)}")
        store.plan([cell])
        folder = store.folder(cell)
        console = SafeConsole(file=io.StringIO())
        with Mirror(print) if tracked else nullcontext() as mirror, Display(console, 1) as shown:
            observers = [shown, mirror] if tracked else [shown]
            cell_module.run_cell(cell, folder, options, lambda event: [see(cell, folder, event) for see in observers])

    candidates = {"bare": bare, "store": lambda: run(tracked=False), "store + MLflow": lambda: run(tracked=True)}
    timings = time_by_turns(candidates, rounds=7, warm_up=1)
    for name in candidates:
        what = {"run": f"a cell of conv4-64 on glyphs, {EPOCHS} epochs", "with": name}
        row(HEADING, **what, seconds=timings.median(name), **timings.ratio_cells(name, "bare", 3))
    assert timings.ratio("store", "bare") < 1.03


def test_two_workers_run_eight_cells_in_two_thirds_of_the_time(tmp_path, row):
    script = str(Path(sys.executable).with_name("dmlbench"))
    eight = ["run", "--methods", "ms,margin", "--datasets", "glyphs", "--seeds", "4", "--tracking", "none"]
    eight += ["--set", "training.epochs=5"]
    count = itertools.count()

    def run(workers: int):
        results = tmp_path / f"{workers}-{next(count)}"
        arguments = [script, *eight, "--workers", str(workers), "--results", str(results)]
        subprocess.run(arguments, check=True, capture_output=True, cwd=tmp_path)

    timings = time_by_turns({"one": lambda: run(1), "two": lambda: run(2)}, rounds=3, warm_up=0)
    for name in ("one", "two"):
        what = {"run": "eight cells of 5 epochs", "with": f"{name} worker{'s' * (name == 'two')}"}
        row(HEADING, **what, seconds=timings.median(name), **timings.ratio_cells(name, "one", 3))
    first, *others = (numbers(results) for results in sorted(tmp_path.iterdir()))
    assert len(first) == 8
    assert all(other == first for other in others)
    assert timings.ratio("two", "one") < 0.65


def test_a_server_that_hangs_or_fails_costs_next_to_nothing(tmp_path, row):
    """Whole command lines, the one-off import of MLflow included, two workers on two cores."""
    script = str(Path(sys.executable).with_name("dmlbench"))
    command = [script, "run", "--methods", "ms", "--datasets", "glyphs", "--seeds", "4"]
    command += ["--set", "training.epochs=6"]
    count = itertools.count()

    def run(uri: str | None):
        tracking = [] if uri else ["--tracking", "none"]
        environment = os.environ | ({"MLFLOW_TRACKING_URI": uri} if uri else {})
        arguments = [*command, *tracking, "--results", str(tmp_path / str(next(count)))]
        subprocess.run(arguments, check=True, capture_output=True, cwd=tmp_path, env=environment)

    with hanging() as silent, failing() as broken:
        candidates = {"none": lambda: run(None), "hangs": lambda: run(silent), "answers 500": lambda: run(broken)}
        timings = time_by_turns(candidates, rounds=2, warm_up=0)
    for name in candidates:
        what = {"run": "four cells of 6 epochs, two workers", "with": f"a tracking server: {name}"}
        row(HEADING, **what, seconds=timings.median(name), **timings.ratio_cells(name, "none", 3))


def numbers(results: Path) -> dict[str, list[tuple[str, ...]]]:
    found = {}
    for path in results.glob("*/*/*/*/history.csv"):
        with path.open(newline="") as file:
            rows = [{key: value for key, value in row.items() if key[:5] != "time/"} for row in csv.DictReader(file)]
        found[f"{path.parts[-3]} {path.parts[-2]}"] = [tuple(row.values()) for row in rows]
    return found
