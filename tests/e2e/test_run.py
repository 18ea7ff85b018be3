"""The main job: run, look at MLflow, report; and what happens when cells fail or the run is cut off."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

import dmlbench as package
from tests.e2e.conftest import TINY, Command, metric_columns

TWO = ("run", "--methods", "ms,ms+psd", "--datasets", "glyphs", *TINY)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries
def test_run_then_mlflow_status_and_report(installed: Command, dmlbench: Command, tmp_path: Path) -> None:
    done = installed(*TWO, "--seeds", "2", "--keep", "weights,embeddings")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 cells: 0 there already, 4 to run" in done.stdout
    assert "ms+psd" in done.stdout
    assert "untrained" in done.stdout

    results = package.load_results(tmp_path / "results" / "runs")
    assert set(results["selection"]) == {"untrained", "last", "best_test"}
    assert len(results) == 12
    assert results["recall_at_1"].between(0, 1).all()
    untrained = results[results["selection"] == "untrained"]
    assert (untrained.groupby("seed")["recall_at_1"].nunique() == 1).all()  # one start for all methods of a seed

    assert _starts(tmp_path) == 2
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("dmlbench/conv4-64/glyphs")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs = client.search_runs([experiment.experiment_id], "tags.cell != ''")
    names = sorted(re.sub(r", [0-9] settings #[0-9a-f]{4},", "", run.info.run_name) for run in runs)
    assert names == ["ms seed 0", "ms seed 1", "ms+psd seed 0", "ms+psd seed 1"]
    run = next(run for run in runs if run.info.run_name.startswith("ms+psd") and run.info.run_name.endswith("seed 1"))
    assert run.info.status == "FINISHED"
    assert run.data.params["distillation.lambda"] == "75.0"
    assert run.data.params["training.epochs"] == "2"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "test/recall_at_1")] == [0, 1, 2]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "spec.yaml",
        "summary.json",
        "history.csv",
    }
    assert run.inputs.dataset_inputs[0].dataset.name == "glyphs"

    again = dmlbench(*TWO, "--seeds", "2", "--keep", "weights", "--tracking", "none")
    assert again.returncode == 0
    assert "4 there already, 0 to run" in again.stdout
    assert "have no" not in again.stdout
    _check_methods_and_report(client, experiment.experiment_id, dmlbench)
    _copy_as_of_another_machine(tmp_path / "results" / "runs", tmp_path / "elsewhere")
    assert "0 runs sent, 4 were there already" in dmlbench("sync", "--results", "elsewhere").stdout

    states = json.loads(dmlbench("status", "--json").stdout)
    assert [cell["state"] for cell in states] == ["done"] * 4
    page = dmlbench("report", "--name", "first", "--only", "method=ms,ms+psd", "--only", "dataset=glyphs")
    assert page.returncode == 0, page.stderr
    assert (tmp_path / "reports" / "first" / "index.html").is_file()
    assert (tmp_path / "reports" / "first" / "report.md").is_file()

    wrong = dmlbench("report", "--name", "none", "--only", "method=mss")
    assert wrong.returncode == 2
    assert "--only: unknown method 'mss'; did you mean 'ms'?" in wrong.stderr
    assert not (tmp_path / "reports" / "none").exists()

    cell = next((tmp_path / "results" / "runs" / "conv4-64" / "glyphs" / "ms").glob("seed0-*"))
    scored = json.loads(dmlbench("evaluate", str(cell), "--json").stdout)
    last = results[(results["method"] == "ms") & (results["seed"] == 0) & (results["selection"] == "last")].iloc[0]
    assert scored["recall_at_1"] == last["recall_at_1"]
    assert scored["nmi"] == last["nmi"]


@pytest.mark.slow
def test_workers_and_data_workers_change_nothing(dmlbench: Command, tmp_path: Path) -> None:
    variants = {
        "one": ("margin", "2", "--workers", "1"),
        "two": ("margin", "2", "--workers", "2"),
        "loaders": ("margin", "1", "--data-workers", "2"),
    }
    for name, (method, seeds, *options) in variants.items():
        run = ("run", "--methods", method, "--datasets", "glyphs", *TINY, "--seeds", seeds, "--tracking", "none")
        done = dmlbench(*run, *options, "--results", name)
        assert done.returncode == 0, done.stdout + done.stderr
    one = metric_columns(tmp_path / "one")
    assert one["glyphs/margin/seed0"] != one["glyphs/margin/seed1"]
    assert one == metric_columns(tmp_path / "two")
    assert one["glyphs/margin/seed0"] == metric_columns(tmp_path / "loaders")["glyphs/margin/seed0"]


@pytest.mark.slow
def test_a_distilled_method_with_weight_zero_is_its_base(dmlbench: Command, tmp_path: Path) -> None:
    methods = "ms,ms+psd,ms+obdsd"
    settings = ("--set", "distillation.lambda=0", "--seed", "3", "--tracking", "none")
    done = dmlbench("run", "--methods", methods, "--datasets", "glyphs", *TINY, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    histories = metric_columns(tmp_path / "results" / "runs")
    assert histories["glyphs/ms/seed3"] == histories["glyphs/ms+psd/seed3"] == histories["glyphs/ms+obdsd/seed3"]


@pytest.mark.slow
def test_a_diverged_cell_fails_alone(dmlbench: Command, tmp_path: Path) -> None:
    tiny = [part.replace("epochs=2", "epochs=1") for part in TINY]
    wild = ("--set", "training.learning_rate=1.0e+30", "--seeds", "1", "--tracking", "none")
    done = dmlbench("run", "--methods", "ms,triplet", "--datasets", "glyphs", *tiny, *wild)
    assert done.returncode == 1
    assert done.stdout.count("diverged: loss is nan at epoch 1, step 2") == 2
    assert "2 of 2 cells failed" in done.stdout
    assert done.stdout.rstrip().endswith("--seeds 1 --tracking none --retry failed")
    skipped = dmlbench("run", "--methods", "ms,triplet", "--datasets", "glyphs", *tiny, *wild)
    assert skipped.returncode == 1
    assert "2 there already (2 failed; --retry failed runs them again), 0 to run" in skipped.stdout
    retry = dmlbench("run", "--methods", "ms", "--datasets", "glyphs", *tiny, *wild, "--retry", "failed", "--dry-run")
    assert "1 of 1 cell to run" in retry.stdout


def _check_methods_and_report(client: mlflow.MlflowClient, experiment: str, dmlbench: Command) -> None:
    methods = client.search_runs([experiment], "tags.kind = 'method'")
    assert {run.data.tags["method"]: run.data.metrics["seeds"] for run in methods} == {"ms": 2, "ms+psd": 2}
    sent = dmlbench("report", "--name", "seen", "--tracking", "auto").stdout
    assert "run `report seen` in dmlbench/conv4-64/glyphs" in sent
    (report,) = client.search_runs([experiment], "tags.kind = 'report'")
    assert "index.html" in {file.path for file in client.list_artifacts(report.info.run_id)}


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///file/mlflow.db"])
def test_a_dead_tracking_store_costs_a_warning(uri: str, installed: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # a folder that cannot be written, for root too
    done = installed("run", "--methods", "ms", "--datasets", "glyphs", *TINY, "--seeds", "1", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results are safe, `dmlbench sync` sends them later" in done.stdout
    assert "sqlalche.me" not in done.stdout + done.stderr
    assert len(metric_columns(tmp_path / "results" / "runs")) == 1
    report = installed("report", "--tracking", "auto", MLFLOW_TRACKING_URI=uri)
    assert report.returncode == 0
    assert report.stderr.splitlines()[-1].startswith("warning: MLflow: ")
    assert report.stderr.endswith("the report was not sent\n")
    assert (tmp_path / "reports" / "report" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_keeps_what_is_done_and_a_killed_worker_fails_alone(
    environment: dict[str, str], dmlbench: Command, tmp_path: Path
) -> None:
    script = str(Path(sys.executable).with_name("dmlbench"))
    long = ("run", "--methods", "ms", "--datasets", "glyphs", "--seeds", "2", "--workers", "1", "--tracking", "none")
    long += (*TINY, "--set", "training.epochs=500")
    begun = subprocess.Popen([script, *long], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    first = _wait_for_history(tmp_path)
    worker = _children(begun.pid)
    os.kill(worker[0], signal.SIGKILL)
    _wait_for_history(tmp_path, besides=first)
    begun.send_signal(signal.SIGINT)
    time.sleep(0.3)
    begun.send_signal(signal.SIGINT)  # at once, in the midst of an epoch
    output, _ = begun.communicate(timeout=60)
    assert begun.returncode == 130
    assert "signal SIGKILL" in output
    states = [cell["state"] for cell in json.loads(dmlbench("status", "--json").stdout)]
    assert sorted(states) == ["failed", "interrupted"]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_cells_of_a_runner_that_is_ended_are_interrupted_not_failed(
    sent: signal.Signals, code: int, environment: dict[str, str], dmlbench: Command, tmp_path: Path
) -> None:
    script = str(Path(sys.executable).with_name("dmlbench"))
    long = ("run", "--methods", "ms", "--datasets", "glyphs", "--seeds", "1", "--tracking", "none")
    long += (*TINY, "--set", "training.epochs=500")
    begun = subprocess.Popen([script, *long], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    _wait_for_history(tmp_path)
    begun.send_signal(sent)
    begun.communicate(timeout=60)
    assert begun.returncode == code
    for _ in range(300):  # the worker notices at its next word to the runner
        (cell,) = json.loads(dmlbench("status", "--json").stdout)
        if cell["state"] != "running":
            break
    assert cell["state"] == "interrupted"
    assert "1 of 1 cell to run" in dmlbench(*long, "--dry-run").stdout


def _starts(folder: Path) -> int:
    """How many initial networks there were; every method of a seed has the same."""
    starts: dict[str, set[str]] = {}
    for file in folder.glob("results/runs/*/*/*/*/summary.json"):
        starts.setdefault(file.parent.name[:5], set()).add(json.loads(file.read_text())["initial_weights"])
    assert all(len(found) == 1 for found in starts.values())
    return len(set.union(*starts.values()))


def _copy_as_of_another_machine(results: Path, folder: Path) -> None:
    shutil.copytree(results, folder)
    for file in folder.glob("*/*/*/*/summary.json"):
        file.write_text(re.sub(r'"started": "\d{4}', '"started": "1999', file.read_text()))


def _wait_for_history(folder: Path, besides: Path | None = None) -> Path:
    for _ in range(1800):
        found = [path for path in folder.glob("results/runs/*/*/*/*/history.csv") if path != besides]
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no cell began within three minutes")


def _children(parent: int) -> list[int]:
    """Worker processes of a runner (multiprocessing's own helper process is none)."""
    pids = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
            command = status.with_name("cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == parent and "spawn_main" in command:
            pids.append(int(status.parent.name))
    return pids
