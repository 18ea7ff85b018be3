"""A matrix on a real SLURM, of this machine alone."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import TINY, Command, metric_columns
from tests.slurm_cluster import Cluster, cluster, lacking

REQUIRE = "DMLBENCH_REQUIRE_SLURM"
SETTINGS = tuple(part.replace("epochs=2", "epochs=6") for part in TINY)
FOUR = ("run", "--methods", "ms,ms+psd", "--datasets", "glyphs", "--seeds", "2", *SETTINGS)
JOBS = ("--executor", "slurm", "--slurm", "slurm.yaml")


@pytest.fixture
def dmlbench(installed: Command) -> Command:
    """The installed script: its jobs start it, too."""
    return installed


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    if why := lacking():
        assert REQUIRE not in os.environ, why
        pytest.skip(why)
    with cluster() as found:
        yield found


@pytest.fixture
def on_slurm(slurm: Cluster, dmlbench: Command, tmp_path: Path) -> Command:
    """The console script with the cluster's name in its environment."""
    (tmp_path / "slurm.yaml").write_text("time: 2\ncpus: 1\nstop_before: 10\n")
    return lambda *arguments, **variables: dmlbench(*arguments, **slurm.variables, **variables)


def cells(on_slurm: Command) -> list[dict]:
    shown = on_slurm("status", "--json", "--results", "slurm")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    return json.loads(shown.stdout)


def until(condition: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.3)


@contextmanager
def hanging(job: str, task: str) -> Iterator[None]:
    """Stop the processes of a job, and again where SLURM wakes them up to end."""
    ended = threading.Event()

    def stop() -> None:
        own = [process for process in psutil.process_iter() if _is_of(process, job, task)]
        assert own
        while not ended.wait(0.01):
            for process in own:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_of(process: psutil.Process, job: str, task: str) -> bool:
    try:
        variables, python = process.environ(), "python" in Path(process.exe()).name
    except psutil.Error:
        return False
    return python and (variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")) == (job, task)


@pytest.mark.slow
def test_one_job_cancelled_and_one_timed_out(
    slurm: Cluster, on_slurm: Command, dmlbench: Command, tmp_path: Path
) -> None:
    four = (*FOUR[: -len(SETTINGS)], "--set", "training.epochs=8")  # long enough to be cancelled in its midst
    local = dmlbench(*four, "--tracking", "none", "--results", "local", timeout=600)
    assert local.returncode == 0, local.stdout + local.stderr

    arguments = (*four, *JOBS, "--slurm", "jobs_at_a_time=2", "--slurm", "time=10", "--results", "slurm")
    submitted = on_slurm(*arguments)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    [record] = (tmp_path / "slurm" / "slurm").glob("*.json")
    job = record.stem
    for line in (f"submitted 4 cells to SLURM in 4 jobs: {job}_0 to {job}_3", "`dmlbench sync --results slurm`"):
        assert line in submitted.stdout
    assert "sent to MLflow" not in submitted.stdout

    again = on_slurm(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "4 cells are in SLURM jobs that wait or run" in again.stdout
    assert len(list(record.parent.glob("*.json"))) == 1

    first = tmp_path / "slurm" / "conv4-64" / "glyphs" / "ms"
    until(lambda: any(path.stat().st_size for path in first.glob("seed0-*/history.csv")))
    slurm.ask("scancel", f"{job}_1")
    slurm.ask("scontrol", "update", f"JobId={job}_0", "TimeLimit=1")
    with hanging(job, "0"):
        until(lambda: slurm.state(f"{job}_0") == "TIMEOUT")
    until(lambda: slurm.state(f"{job}_3") == "COMPLETED")

    states = {cell["job"]["state"]: cell for cell in cells(on_slurm) if cell["job"]}
    assert states.keys() == {"TIMEOUT", "CANCELLED"}
    assert states["TIMEOUT"]["state"] == "interrupted"
    assert states["TIMEOUT"]["why"].startswith(f"SLURM job {job}_0 reached its time limit (TIMEOUT); log: ")
    assert "was cancelled" in states["CANCELLED"]["why"]
    assert json.loads(record.read_text())["ended"] == {f"{job}_0": "TIMEOUT", f"{job}_1": "CANCELLED"}
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "slurm").rglob("summary.json")}
    assert len(done) == 2

    # SLURM's commands may be gone from where a report is made: it knows all the same.
    report = dmlbench("report", "--results", "slurm", "--output", "reports", "--name", "slurm")
    assert report.returncode == 0, report.stdout + report.stderr
    text = (tmp_path / "reports" / "slurm" / "report.md").read_text()
    assert "reached its time limit (TIMEOUT): ms, seed 0" in text

    rerun = on_slurm(*arguments, "--wait", "--tracking", "none")
    assert rerun.returncode == 0, rerun.stdout + rerun.stderr
    assert "submitted 2 cells to SLURM in 2 jobs" in rerun.stdout
    assert "[2/2]" in rerun.stdout
    assert metric_columns(tmp_path / "slurm") == metric_columns(tmp_path / "local")
    for path, stamp in done.items():
        assert path.stat().st_mtime_ns == stamp
    assert {cell["state"] for cell in cells(on_slurm)} == {"done"}


@pytest.mark.slow
def test_a_job_whose_time_is_over_is_queued_again(slurm: Cluster, on_slurm: Command, tmp_path: Path) -> None:
    one = ("run", "--methods", "ms", "--datasets", "glyphs", "--seeds", "2", *SETTINGS, "--results", "slurm")
    arguments = (*one, *JOBS, "--slurm", "cells_per_job=2", "--slurm", "time=10", "--tracking", "none")
    submitted = on_slurm(*arguments)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    [record] = (tmp_path / "slurm" / "slurm").glob("*.json")
    history = lambda: [path for path in tmp_path.rglob("history.csv") if len(path.read_text().splitlines()) > 2]  # noqa: E731
    until(history)
    slurm.ask("scancel", "--signal=USR2", record.stem)
    until(lambda: slurm.state(record.stem) == "PENDING")
    shown = cells(on_slurm)
    assert {cell["state"] for cell in shown} == {"queued"}
    assert max(cell["epoch"] for cell in shown) >= 1
    until(lambda: slurm.state(record.stem) == "COMPLETED")
    summaries = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("summary.json"))]
    assert [summary["status"] for summary in summaries] == ["done", "done"]
    assert sum(map(len, (summary["resumed"] for summary in summaries))) == 1
    assert len(list(record.parent.glob("*.json"))) == 1
    log = (record.parent / f"{record.stem}_0_log.err").read_text()
    assert "the job's time is nearly over: stopping after this epoch" in log


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["main", "told"])
def test_a_preempted_job_is_queued_again(slurm: Cluster, on_slurm: Command, tmp_path: Path, partition: str) -> None:
    long = tuple(part.replace("epochs=2", "epochs=40") for part in TINY)
    one = ("run", "--methods", "ms", "--datasets", "glyphs", "--seeds", "1", *long, "--results", "slurm")
    arguments = (*one, *JOBS, "--slurm", f"partition={partition}", "--slurm", "time=10", "--tracking", "none")
    submitted = on_slurm(*arguments)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    [record] = (tmp_path / "slurm" / "slurm").glob("*.json")
    until(lambda: [path for path in tmp_path.rglob("history.csv") if len(path.read_text().splitlines()) > 2])
    urgent = slurm.ask(
        "sbatch", "--parsable", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 1"
    ).strip()  # the whole node
    until(lambda: slurm.state(record.stem) == "PENDING")
    until(lambda: slurm.state(urgent) == "COMPLETED")
    until(lambda: slurm.state(record.stem) == "COMPLETED")
    [summary] = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert summary["status"] == "done"
    assert len(summary["resumed"]) == 1
    log = (record.parent / f"{record.stem}_0_log.err").read_text()
    if partition == "told":
        assert "SLURM ends the job: stopping after this epoch" in log


@pytest.mark.slow
def test_what_sbatch_refuses_is_one_line(on_slurm: Command, tmp_path: Path) -> None:
    refused = on_slurm(*FOUR, *JOBS, "--slurm", "partition=nowhere", "--results", "slurm")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "sbatch refuses the jobs" in refused.stderr
    assert "artition" in refused.stderr
    assert [path.name for path in (tmp_path / "slurm" / "slurm").iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_dry_run_prints_the_script(on_slurm: Command, tmp_path: Path) -> None:
    given = ("--slurm", "setup=module load cuda", "--slurm", "options.comment=mine", "--slurm", "qos=normal")
    shown = on_slurm(*FOUR, *JOBS, *given, "--slurm", "jobs_at_a_time=3", "--results", "slurm", "--dry-run")
    lines = shown.stdout.splitlines()
    for line in (
        "#SBATCH --array=0-3%3", "#SBATCH --time=2", "#SBATCH --signal=USR2@10", "#SBATCH --comment=mine",
        "#SBATCH --qos=normal", "#SBATCH --requeue", "module load cuda",
    ):  # fmt: skip
        assert line in lines, shown.stdout + shown.stderr
    assert "4 of 4 cells to run with 3 at a time" in shown.stdout
    refused = on_slurm(*FOUR, *JOBS, "--slurm", "gres=gpu:1", "--results", "slurm", "--dry-run")
    assert refused.returncode == 2
    assert "#SBATCH --gres=gpu:1" in refused.stdout.splitlines()
    assert refused.stderr.startswith("error: --executor slurm: sbatch refuses the jobs (")
    assert "gres" in refused.stderr
    assert not (tmp_path / "slurm").exists()
