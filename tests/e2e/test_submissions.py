"""Commands about cells that were submitted to SLURM, of which scripts print what it says."""

import json
import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Command

TWO = ("--methods", "ms", "--datasets", "glyphs", "--seeds", "2", "--results", "runs", "--tracking", "none")
JOBS = ("--executor", "slurm", "--slurm", "time=10")


@pytest.fixture
def submitted(in_process: Command, slurm, tmp_path: Path):
    """A run of two cells that was submitted, and of which SLURM still has the first."""
    slurm("srun")
    slurm("sbatch", "Submitted batch job 41")
    done = in_process("run", *TWO, *JOBS)
    assert done.returncode == 0, done.stdout + done.stderr
    me = os.getuid()
    slurm("squeue", f"41_0|PENDING|Priority|{me}|dmlbench", f"41_1|TIMEOUT|None|{me}|dmlbench")
    return tmp_path / "runs" / "slurm" / "41.json"


def test_a_dry_run_names_what_jobs_have(submitted: Path, in_process: Command) -> None:
    shown = in_process("run", *TWO, *JOBS, "--dry-run")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "--array" not in shown.stdout
    assert "1 cell is in SLURM jobs that wait or run (41_0), not submitted again" in shown.stdout
    assert "ms on glyphs, seed 0: SLURM job 41_0: pending (Priority)" in shown.stdout
    assert "1 of 2 cells to run with 1 at a time" in shown.stdout
    one = in_process("run", *TWO[:4], "--seed", "0", *TWO[6:], *JOBS, "--dry-run")
    assert one.stdout.splitlines()[-1] == "0 of 1 cell to run"
    assert "#SBATCH" not in one.stdout


def test_a_damaged_submission_is_a_line(submitted: Path, in_process: Command) -> None:
    submitted.write_text("{")
    shown = in_process("status", "--results", "runs")
    assert shown.returncode == 1
    assert f"left out: {Path('runs') / 'slurm' / '41.json'}: " in shown.stdout
    assert not shown.stderr
    as_json = in_process("status", "--results", "runs", "--json")
    assert as_json.returncode == 1
    assert {cell["state"] for cell in json.loads(as_json.stdout)} == {"missing"}
    assert as_json.stderr.startswith(f"left out: {Path('runs') / 'slurm' / '41.json'}: ")
    for command in (("run", *TWO, *JOBS, "--dry-run"), ("run", *TWO, *JOBS)):
        done = in_process(*command)
        assert done.returncode == 0
        assert f"left out: {Path('runs') / 'slurm' / '41.json'}: " in done.stdout
        assert not done.stderr
    assert submitted.read_text() == "{"
