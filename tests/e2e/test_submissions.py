"""Commands about cells that were submitted to SLURM, of which scripts print what it says."""

import json
import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Command

TWO = ("--methods", "ms", "--datasets", "glyphs", "--seeds", "2", "--results", "runs", "--tracking", "none")
JOBS = ("--executor", "slurm", "--slurm", "time=10")


@pytest.fixture
def submitted(dmlbench: Command, slurm, tmp_path: Path):
    """A run of two cells that was submitted, and of which SLURM still has the first."""
    slurm("srun")
    slurm("sbatch", "Submitted batch job 41")
    done = dmlbench("run", *TWO, *JOBS)
    assert done.returncode == 0, done.stdout + done.stderr
    me = os.getuid()
    slurm("squeue", f"41_0|PENDING|Priority|{me}|dmlbench", f"41_1|TIMEOUT|None|{me}|dmlbench")
    return tmp_path / "runs" / "slurm" / "41.json"


def test_a_dry_run_names_what_jobs_have(submitted: Path, dmlbench: Command) -> None:
    shown = dmlbench("run", *TWO, *JOBS, "--dry-run")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "--array" not in shown.stdout
    assert "1 cell is in SLURM jobs that wait or run (41_0), not submitted again" in shown.stdout
    assert "ms on glyphs, seed 0: SLURM job 41_0: pending (Priority)" in shown.stdout
    assert "1 of 2 cells to run with 1 at a time" in shown.stdout
    one = dmlbench("run", *TWO[:4], "--seed", "0", *TWO[6:], *JOBS, "--dry-run")
    assert one.stdout.splitlines()[-1] == "0 of 1 cell to run"
    assert "#SBATCH" not in one.stdout


def test_a_dry_run_counts_the_cells_of_a_job(dmlbench: Command, slurm) -> None:
    slurm("srun")
    slurm("squeue")
    slurm("sbatch")
    more = ("--slurm", "cpus=2", "--slurm", "cells_per_job=2")
    shown = dmlbench("run", *TWO, *JOBS, *more, "--dry-run")
    assert "2 of 2 cells to run with 2 at a time" in shown.stdout
    assert "note: the jobs ask for no GPU" in shown.stdout
    slurm("sbatch", error="sbatch: error: invalid partition specified: nope", code=1)
    refused = dmlbench("run", *TWO, *JOBS, "--dry-run")
    assert refused.returncode == 2
    assert (
        "error: --executor slurm: sbatch refuses the jobs (error: invalid partition specified: nope)" in refused.stderr
    )


def test_a_refused_submission_leaves_no_cell_behind(submitted: Path, dmlbench: Command, slurm) -> None:
    before = sorted(submitted.parents[1].rglob("spec.yaml"))
    slurm("sbatch", error="sbatch: error: Batch job submission failed: Invalid account", code=1)
    refused = dmlbench("run", "--methods", "ms,triplet", *TWO[2:4], "--seeds", "3", *TWO[6:], *JOBS)
    assert refused.returncode == 2
    assert sorted(submitted.parents[1].rglob("spec.yaml")) == before
    assert not (submitted.parents[1] / "conv4-64" / "glyphs" / "triplet").exists()


def test_the_state_of_many_seeds_is_counted(dmlbench: Command, slurm) -> None:
    slurm("srun")
    slurm("sbatch", "Submitted batch job 41")
    done = dmlbench("run", *TWO[:5], "30", *TWO[6:], *JOBS)
    assert "submitted 30 cells to SLURM in 30 jobs: 41_0 to 41_29; a job may take 10 min" in done.stdout
    slurm("squeue", *(f"41_{task}|PENDING|Priority|{os.getuid()}|dmlbench" for task in range(30)))
    shown = dmlbench("status", "--results", "runs")
    assert "seed 29" not in shown.stdout.partition("ms")[0]
    assert any(line.split() == ["ms", "30", "queued", "-"] for line in shown.stdout.splitlines())


def test_a_damaged_submission_is_a_line(submitted: Path, dmlbench: Command) -> None:
    submitted.write_text("{")
    shown = dmlbench("status", "--results", "runs")
    assert shown.returncode == 1
    assert f"left out: {Path('runs') / 'slurm' / '41.json'}: " in shown.stdout
    assert not shown.stderr
    as_json = dmlbench("status", "--results", "runs", "--json")
    assert as_json.returncode == 1
    assert {cell["state"] for cell in json.loads(as_json.stdout)} == {"missing"}
    assert as_json.stderr.startswith(f"left out: {Path('runs') / 'slurm' / '41.json'}: ")
    for command in (("run", *TWO, *JOBS, "--dry-run"), ("run", *TWO, *JOBS)):
        done = dmlbench(*command)
        assert done.returncode == 0
        assert f"left out: {Path('runs') / 'slurm' / '41.json'}: " in done.stdout
        assert not done.stderr
    assert submitted.read_text() == "{"
