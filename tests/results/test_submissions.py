"""What SLURM is said to say here is printed by scripts in the place of its commands."""

import json

from dmlbench.errors import Damaged
from dmlbench.results.status import overview
from dmlbench.results.store import Roots
from dmlbench.results.submissions import jobs, record, submissions
from tests.begun import begin

A, B, C = "a" * 16, "b" * 16, "c" * 16


def test_a_cells_job_is_its_last(tmp_path, slurm):
    record(tmp_path, ["7_0", "7_1"], [[A], [B, C]])
    record(tmp_path, ["12"], [[A]])
    asked = slurm("squeue", "12|RUNNING|None", "7_1|PENDING|Resources")
    found = jobs(tmp_path, {A, B})
    assert {cell: (job.id, job.state, job.live) for cell, job in found.items()} == {
        A: ("12", "RUNNING", True),
        B: ("7_1", "PENDING", True),
    }
    assert str(found[B]) == "SLURM job 7_1: pending (Resources)"
    assert "--jobs=12,7_1" in asked.read_text()
    assert len(asked.read_text().splitlines()) == 1


def test_why_a_job_ended_is_kept(tmp_path, slurm):
    record(tmp_path, ["7_0", "7_1"], [[A], [B]])
    slurm("squeue", "7_0|OUT_OF_MEMORY|OutOfMemory")
    slurm("sacct", "7_1|CANCELLED by 1000")
    found = jobs(tmp_path, {A, B})
    assert found[A].cause == "SLURM job 7_0 ran out of memory (OUT_OF_MEMORY)"
    assert found[B].cause == "SLURM job 7_1 was cancelled (CANCELLED)"
    assert str(found[B]).endswith(f"log: {tmp_path / 'slurm' / '7_1_0_log.err'}")
    slurm("squeue", error="slurm_load_jobs error: Invalid job id specified", code=1)
    slurm("sacct", error="Slurm accounting storage is disabled", code=1)
    assert jobs(tmp_path, {A, B}) == found
    (tmp_path / "bin" / "squeue").unlink()
    assert jobs(tmp_path, {A, B}) == found


def test_a_job_that_was_queued_again_is_alive(tmp_path, slurm):
    record(tmp_path, ["7"], [[A]])
    slurm("squeue", "7|PREEMPTED|None")
    assert not jobs(tmp_path, {A})[A].live
    slurm("squeue", "7|PENDING|BeginTime")
    assert jobs(tmp_path, {A})[A].live


def test_a_job_that_slurm_forgot_is_over(tmp_path, slurm):
    record(tmp_path, ["7"], [[A]])
    slurm("squeue", error="slurm_load_jobs error: Invalid job id specified", code=1)
    job = jobs(tmp_path, {A})[A]
    assert not job.live
    assert "is over, and SLURM does not know why any more" in str(job)
    assert submissions(tmp_path)[0].ended == {}  # accounts may be back later


def test_where_slurm_does_not_answer_a_job_may_be_alive(tmp_path, slurm):
    record(tmp_path, ["7"], [[A]])
    assert (jobs(tmp_path, {A})[A].state, jobs(tmp_path, {A})[A].live) == ("UNKNOWN", True)


def test_slurm_is_not_asked_where_nothing_was_submitted(tmp_path, slurm):
    asked = slurm("squeue")
    assert jobs(tmp_path, {A}) == {}
    record(tmp_path, ["7"], [[B]])
    assert jobs(tmp_path, {A}) == {}
    assert not asked.exists()


def test_a_damaged_submission_is_named_and_left_out(tmp_path, slurm):
    record(tmp_path, ["7"], [[A]])
    (tmp_path / "slurm" / "8.json").write_text("{")
    (tmp_path / "slurm" / "9.json").write_text(json.dumps({"version": 1, "job": "9; rm", "submitted": "now"}))
    left_out: list[Damaged] = []
    assert [own.job for own in submissions(tmp_path, left_out.append)] == ["7"]
    assert [found.path.name for found in left_out] == ["8.json", "9.json"]


def test_the_state_of_a_submitted_cell(store, make_cell, slurm):
    waiting, dead, resumed = (make_cell(seed=seed) for seed in range(3))
    store.plan([waiting, dead, resumed])
    begin(store, resumed).append({"epoch": 0})
    record(store.root, ["7_0", "7_1", "7_2"], [[waiting.hash], [dead.hash], [resumed.hash]])
    slurm("squeue", "7_0|PENDING|Priority", "7_1|NODE_FAIL|None", "7_2|PENDING|BeginTime")
    states = {cell.cell.seed: cell for cell in overview(Roots.of(store.root))}
    assert [states[seed].state for seed in range(3)] == ["queued", "missing", "queued"]
    assert states[1].why.startswith("SLURM job 7_1 lost its node (NODE_FAIL); log: ")
    assert states[2].job.id == "7_2"
    slurm("squeue", error="Unable to contact slurm controller", code=1)
    states = {cell.cell.seed: cell for cell in overview(Roots.of(store.root))}
    assert [states[seed].state for seed in range(3)] == ["missing", "missing", "interrupted"]
    assert states[0].why == "SLURM job 7_0: unknown"
