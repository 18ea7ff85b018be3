"""What SLURM is said to say here is printed by scripts in the place of its commands."""

import json
import os

from dmlbench.errors import Damaged
from dmlbench.results import submissions as submissions_file
from dmlbench.results.slurm_queue import ask
from dmlbench.results.status import overview
from dmlbench.results.store import Roots
from dmlbench.results.submissions import Jobs, jobs, record, submissions
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
    assert "--jobs=7,12" in asked.read_text()
    assert len(asked.read_text().splitlines()) == 1


def test_why_a_job_ended_is_kept(tmp_path, slurm):
    record(tmp_path, ["7_0", "7_1"], [[A], [B]])
    slurm("squeue", "7_0|OUT_OF_MEMORY|OutOfMemory")
    slurm("sacct", "7_1|CANCELLED by 1000")
    found = jobs(tmp_path, {A, B})
    assert found[A].cause == "SLURM job 7_0 ran out of memory (OUT_OF_MEMORY)"
    assert found[B].cause == "SLURM job 7_1 was cancelled (CANCELLED)"
    assert str(found[B]) == found[B].cause  # it never started, and has no log
    log = tmp_path / "slurm" / "7_1_0_log.err"
    log.touch()
    assert str(found[B]) == f"{found[B].cause}; log: {log}"
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


def test_thousands_of_jobs_are_asked_about_by_their_arrays(tmp_path, slurm):
    cells = [f"{number:016x}" for number in range(20_000)]
    record(tmp_path, [f"7_{task}" for task in range(len(cells))], [[cell] for cell in cells])
    slurm("squeue", *(f"7_{task}|PENDING|Priority" for task in range(3)))
    asked = slurm("sacct", "7_[3-19999]|CANCELLED by 1000")
    states = [job.state for job in jobs(tmp_path, set(cells)).values()]
    assert states == ["PENDING"] * 3 + ["CANCELLED"] * 19_997
    assert len(asked.read_text()) < 1000


def test_many_arrays_are_asked_about_in_portions(slurm):
    asked = slurm("squeue", "1000|RUNNING|None", "1500|RUNNING|None")
    assert ask({str(job) for job in range(1000, 1501)}).keys() == {"1000", "1500"}
    assert len(asked.read_text().splitlines()) == 2


def test_tasks_that_sacct_has_in_one_line(tmp_path, slurm):
    cells = [f"{number:016x}" for number in range(9)]
    record(tmp_path, [f"7_{task}" for task in range(9)], [[cell] for cell in cells])
    slurm("squeue")
    slurm("sacct", "7_[0-1,4,6-8:2%3]|CANCELLED by 1000", "7_3|COMPLETED", "8_[2]|FAILED")
    states = [job.state for job in jobs(tmp_path, set(cells)).values()]
    assert [task for task, state in enumerate(states) if state == "CANCELLED"] == [0, 1, 4, 6, 8]
    assert (states[3], states[2]) == ("COMPLETED", "FORGOTTEN")


def test_a_job_of_another_owner_or_name_is_not_ours(tmp_path, slurm):
    record(tmp_path, ["7"], [[A]], "dmlbench")
    me = os.getuid()
    for line in (f"7|RUNNING|None|{me + 1}|dmlbench", f"7|RUNNING|None|{me}|other|name"):
        slurm("squeue", line)
        assert jobs(tmp_path, {A})[A].state == "FORGOTTEN"
    slurm("squeue", f"7|RUNNING|None|{me}|dmlbench")
    assert jobs(tmp_path, {A})[A].state == "RUNNING"
    slurm("squeue")
    slurm("sacct", f"7|FAILED|{me + 1}|dmlbench")
    assert jobs(tmp_path, {A})[A].state == "FORGOTTEN"


def test_an_id_that_is_given_again_is_another_job(tmp_path, slurm):
    first = record(tmp_path, ["7"], [[A]])
    path = tmp_path / "slurm" / "7.json"
    path.write_text(first.model_copy(update={"submitted": "2020-01-01T00:00:00+00:00"}).model_dump_json())
    record(tmp_path, ["7"], [[B]])
    assert [own.tasks for own in submissions(tmp_path)] == [[[A]], [[B]]]
    slurm("squeue", "7|FAILED|None")
    found = jobs(tmp_path, {A, B})
    assert (found[A].state, found[B].state) == ("FORGOTTEN", "FAILED")
    assert [own.ended for own in submissions(tmp_path)] == [{}, {"7": "FAILED"}]


def test_slurm_is_not_asked_again_at_once(tmp_path, slurm, monkeypatch):
    clock = [1e6]
    monkeypatch.setattr(submissions_file.time, "monotonic", lambda: clock[0])
    record(tmp_path, ["7"], [[A]])
    asked = slurm("squeue", "7|RUNNING|None")
    look_up = Jobs(15)
    for passed in (0, 2, 12):
        clock[0] += passed
        assert look_up(tmp_path, {A})[A].state == "RUNNING"
    assert len(asked.read_text().splitlines()) == 1
    clock[0] += 1
    look_up(tmp_path, {A})
    assert len(asked.read_text().splitlines()) == 2


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
    assert states[1].why == "SLURM job 7_1 lost its node (NODE_FAIL)"
    assert states[2].job.id == "7_2"
    slurm("squeue", error="Unable to contact slurm controller", code=1)
    states = {cell.cell.seed: cell for cell in overview(Roots.of(store.root))}
    assert [states[seed].state for seed in range(3)] == ["missing", "missing", "interrupted"]
    assert states[0].why == "SLURM job 7_0: unknown"
