"""Jobs on SLURM itself are tested in tests/e2e/test_slurm.py; here scripts answer in the place of its commands."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from submitit import LocalExecutor

from dmlbench.errors import UserError
from dmlbench.results.events import Epoch, Finished, Halted, Started
from dmlbench.results.store import Store
from dmlbench.results.submissions import record, submissions
from dmlbench.runner import execution as module
from dmlbench.runner import slurm as runner
from dmlbench.runner import slurm_job
from dmlbench.runner.execution import check_gpus_per_cell, notes_on_execution
from dmlbench.runner.matrix import Execution, Request, plan, tasks
from dmlbench.runner.slurm import check_script, check_slurm, dry_run, follow, submit
from dmlbench.runner.slurm_job import Limit, bundles
from dmlbench.specs.slurm import SlurmSettings
from tests.begun import begin, ended

TINY = ("input.size=16", "input.resize=16", "model.embedding_dim=16", "evaluation.every=1")


@pytest.fixture
def cells(make_cell):
    return [make_cell(seed=seed) for seed in range(5)]


@pytest.fixture
def execution(store):
    return Execution(store, executor="slurm", slurm=SlurmSettings(time=30, cells_per_job=2, jobs_at_a_time=2))


@pytest.fixture
def head_node(slurm):
    """Commands of a login node, of which sbatch gives each submission the next number."""
    slurm("srun")
    slurm("squeue", *(f"{job}_{task}|PENDING|Priority" for job in (41, 42) for task in range(3)))
    slurm("sbatch", "Submitted batch job 41")
    return slurm


def test_each_job_has_its_cells_and_a_record(cells, execution, head_node):
    made, theirs = submit(cells, execution)
    assert not theirs
    assert (made.job, made.array) == ("41", True)
    assert made.tasks == [[cells[0].hash, cells[1].hash], [cells[2].hash, cells[3].hash], [cells[4].hash]]
    assert submissions(execution.store.root) == [made]
    pickles = sorted(path.name for path in (execution.store.root / "slurm").glob("*.pkl"))
    assert pickles == [f"41_{task}_submitted.pkl" for task in range(3)]


def test_a_cell_that_a_job_has_is_not_submitted_again(cells, execution, head_node):
    submit(cells[:4], execution)
    head_node("sbatch", "Submitted batch job 42")
    made, theirs = submit(cells, execution)
    assert made.tasks == [[cells[4].hash]]
    assert {job.id for job in theirs.values()} == {"41_0", "41_1"}
    head_node("squeue", "41_0|TIMEOUT|None", "41_1|RUNNING|None", "42|RUNNING|None")
    head_node("sbatch", "Submitted batch job 43")
    made, theirs = submit(cells, execution)
    assert made.tasks == [[cells[0].hash, cells[1].hash]]
    assert submit(cells, execution)[0].job == "43"  # which squeue does not know: it is over


def test_where_slurm_does_not_answer_nothing_is_submitted(cells, execution, head_node):
    submit(cells[:1], execution)
    asked = head_node("sbatch", "Submitted batch job 42")
    asked.unlink()
    head_node("squeue", error="Unable to contact slurm controller", code=1)
    with pytest.raises(UserError, match="squeue does not say whether job 41 still has cells of this run"):
        submit(cells, execution)
    assert not asked.exists()


def test_what_sbatch_refuses_leaves_nothing(cells, execution, head_node):
    head_node("sbatch", error="sbatch: error: Batch job submission failed: Invalid account", code=1)
    with pytest.raises(UserError, match=r"sbatch refuses the jobs \(error: Batch job submission failed: Invalid acc"):
        submit(cells, execution)
    assert [path.name for path in (execution.store.root / "slurm").iterdir()] == [".lock"]


def test_a_job_within_a_job_is_one_of_its_own(cells, execution, head_node, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1")
    monkeypatch.setenv("SLURM_CONF", "here")
    (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\necho Submitted batch job 41\n")
    submit(cells, execution)
    seen = (tmp_path / "seen").read_text().splitlines()
    assert "SLURM_CONF=here" in seen
    assert not any(line.startswith("SLURM_MEM_PER_CPU") for line in seen)
    assert os.environ["SLURM_MEM_PER_CPU"] == "1"


def test_the_script_of_one_job_is_no_array(cells, execution, head_node):
    assert "#SBATCH --array=0-2%2\n" in dry_run(cells, execution)[0]
    assert "--array" not in dry_run(cells[:2], execution)[0]


def test_a_users_scripts_are_no_modules_of_a_job(cells, execution, head_node, tmp_path, monkeypatch):
    for name in ("PYTHONSAFEPATH", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    [line] = [line for line in dry_run(cells, execution)[0].splitlines() if line.startswith("srun ")]
    python = line[line.index(sys.executable) : line.index(" -m ")]
    (tmp_path / "random.py").write_text("open('RAN', 'w').close()\n")
    done = subprocess.run([*shlex.split(python), "-c", "import random"], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert not (tmp_path / "RAN").exists()


def test_a_dry_run_leaves_out_what_jobs_have(cells, execution, head_node):
    submit(cells[:3], execution)
    text, theirs = dry_run(cells, execution)
    assert "#SBATCH --time=30\n" in text
    assert "--array" not in text
    assert theirs.keys() == {cell.hash for cell in cells[:3]}
    assert dry_run(cells[:3], execution)[0] == ""


def test_more_jobs_than_an_array_holds_are_refused(cells, execution, head_node):
    head_node("scontrol", "ClusterName             = here", "MaxArraySize            = 2")
    asked = head_node("sbatch", "Submitted batch job 41")
    message = r"3 jobs, and an array of this cluster holds 2 \(MaxArraySize\); --slurm cells_per_job=3"
    for refused in (dry_run, submit):
        with pytest.raises(UserError, match=message):
            refused(cells, execution)
    assert not asked.exists()
    made, _ = submit(cells[:4], execution)
    assert (made.cluster, made.uid, made.name) == ("here", str(os.getuid()), "dmlbench")


def test_a_job_of_another_cluster_may_be_alive(cells, execution, head_node):
    head_node("scontrol", "ClusterName = there")
    submit(cells, execution)
    head_node("scontrol", "ClusterName = here")
    with pytest.raises(UserError, match=r"job 41_0 \(of cluster there, and this is here\) still has.*on that cluster"):
        submit(cells, execution)


@pytest.mark.parametrize("command", ["sbatch", "srun", "squeue"])
def test_a_machine_that_cannot_submit_is_told(command, execution, head_node, tmp_path, monkeypatch):
    check_slurm(execution)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin" / command).unlink()
    with pytest.raises(UserError, match=f"{command} is not on this machine; run it on the cluster's login node"):
        check_slurm(execution)


def test_a_results_folder_that_slurm_would_not_take_as_it_is(execution, head_node, tmp_path):
    with pytest.raises(UserError, match="50%/runs: % has a meaning of its own in the paths of SLURM's logs"):
        check_slurm(replace(execution, store=Store(tmp_path / "50%" / "runs")))


def test_a_job_holds_the_workers_that_are_asked_for(execution, head_node):
    check_slurm(replace(execution, workers=2))
    with pytest.raises(UserError, match=r"--workers 3: counts within a job, which has 2 cells; --slurm cells_per_j"):
        check_slurm(replace(execution, workers=3))
    on_gpu = replace(execution, workers=2, slurm=SlurmSettings(time=30, cells_per_job=2, gres="gpu:1"))
    check_slurm(replace(on_gpu, per_gpu=2))
    with pytest.raises(UserError, match=r"--workers 2: 1 GPU of a job with --per-gpu 1 hold 1; --per-gpu 2 makes"):
        check_slurm(on_gpu)


def test_the_gpus_of_a_job_train_a_cell_together(make_cell, store, execution, head_node, monkeypatch):
    cells = [make_cell(seed=seed) for seed in range(2)]
    gpus = replace(execution, gpus_per_cell=2, slurm=SlurmSettings(time=30, cells_per_job=2, gres="gpu:2"))
    check_slurm(replace(gpus, workers=1))
    check_gpus_per_cell(cells, gpus)
    with pytest.raises(UserError, match=r"--workers 2: 2 GPUs of a job with --gpus-per-cell 2 hold 1; .*gres=gpu:4"):
        check_slurm(replace(gpus, workers=2))
    for asked, said in (("gpu:1", "1 GPU"), (None, "no GPU")):
        fewer = replace(gpus, slurm=SlurmSettings(time=30, gres=asked))
        with pytest.raises(UserError, match=f"--gpus-per-cell 2: a job asks for {said}; --slurm gres=gpu:2"):
            check_gpus_per_cell(cells, fewer)

    ran = []
    [bundle] = bundles(tasks(cells, store), gpus, 2, minutes=30, stop_before=10)
    monkeypatch.setattr(slurm_job, "run_here", lambda own, execution, note, limit: ran.append(execution.gpus_per_cell))
    for count in (1, 2):  # what the node has
        monkeypatch.setattr(module, "_gpu_count", lambda count=count, **_: count)
        if count == 1:
            with pytest.raises(UserError, match="--gpus-per-cell 2: this machine has 1 GPU"):
                bundle()
    bundle()
    assert ran == [2]


def test_what_nothing_would_use_is_told(cells, execution, head_node):
    def asks(device="auto", *, per_gpu=1, gpus_per_cell=1, **settings):
        asked = SlurmSettings(time=30, **settings)
        return replace(execution, device=device, per_gpu=per_gpu, gpus_per_cell=gpus_per_cell, slurm=asked)

    with pytest.raises(UserError, match=r"--per-gpu 2: a job asks for no GPU; --slurm gres=gpu:1"):
        check_slurm(asks(per_gpu=2, cells_per_job=2))
    with pytest.raises(UserError, match=r"--per-gpu 2: a job has 1 cell; --slurm cells_per_job=2"):
        check_slurm(asks(per_gpu=2, gres="gpu:1"))
    assert notes_on_execution(cells, asks()) == ["note: the jobs ask for no GPU; --slurm gres=gpu:1 asks for one"]
    [note] = notes_on_execution(cells, asks(gres="gpu:4", cells_per_job=2))
    assert note.startswith("note: a job asks for 4 GPUs and uses 2; --slurm cells_per_job=N")
    for none in (
        asks("cpu"), asks(gres="gpu:1"), asks(gres="gpu:2", cells_per_job=2), asks(gres="gpu:2", gpus_per_cell=2),
    ):  # fmt: skip
        assert notes_on_execution(cells, none) == []


def test_a_script_that_sbatch_would_refuse_is_refused(head_node):
    asked = head_node("sbatch", error="sbatch: Job 3 to start at noon")
    check_script("#!/bin/bash\n")
    assert asked.read_text().startswith("--test-only ")
    head_node("sbatch", error="allocation failure: Requested node configuration is not available", code=1)
    with pytest.raises(UserError, match=r"sbatch refuses the jobs \(allocation failure: Requested node configuration"):
        check_script("#!/bin/bash\n")


def test_a_setup_line_that_fails_ends_the_job(cells, execution, head_node):
    settings = SlurmSettings(time=30, setup=("module load cuda", "export A=1"))
    lines = dry_run(cells, replace(execution, slurm=settings))[0].splitlines()
    begun = lines.index("set -e")
    assert lines[begun : begun + 4] == ["set -e", "module load cuda", "export A=1", "set +e"]


def test_a_node_with_fewer_gpus_than_workers_runs_fewer_at_a_time(store, cells, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(slurm_job, "gpus_of", lambda execution: 1)
    monkeypatch.setattr(slurm_job, "run_here", lambda own, execution, note, limit: asked.append(execution.workers))
    [bundle] = bundles(tasks(cells[:2], store), Execution(store, workers=2), 2, minutes=30, stop_before=10)
    assert bundle() == "0 of 2 cells have a result"
    assert asked == [1]
    assert "--workers 2 is lowered to 1" in capsys.readouterr().err


def test_a_gpu_brings_cores(cells, execution, head_node):
    own, _ = dry_run(cells, replace(execution, slurm=SlurmSettings(time=30, gres="gpu:2")))
    assert "#SBATCH --cpus-per-task=16\n" in own
    assert "--cpus-per-task=16 " in own.splitlines()[-1]


def test_following_tells_what_the_results_folder_and_slurm_say(store, cells, slurm, monkeypatch):
    monkeypatch.setattr(runner, "GLANCE", 0.0)
    monkeypatch.setattr(runner, "ASK", 0.0)
    own, told = cells[:3], []
    begin(store, own[1]).append({"epoch": 0})
    record(store.root, ["7_0", "7_1", "7_2"], [[cell.hash] for cell in own])
    slurm("squeue", "7_0|RUNNING|None", "7_1|OUT_OF_MEMORY|None", "7_2|RUNNING|None")

    def run() -> None:
        writer, failing = begin(store, own[0]), begin(store, own[2])
        writer.append({"epoch": 0})
        writer.append({"epoch": 1, "train/loss": 1.0})
        writer.finish(ended(own[0]))
        failing.finish(ended(own[2], "failed"))

    note = lambda task, event: told.append((task.cell.seed, event))  # noqa: E731
    follow(tasks(own, store), store.root, on_event=note, interrupts=Meanwhile(run))
    assert [type(event) for seed, event in told if seed == 0] == [Started, Epoch, Epoch, Finished]
    assert [str(event.error) for seed, event in told if seed == 2] == ["diverged: loss is nan"]
    [halted] = [event for seed, event in told if seed == 1]
    assert isinstance(halted, Halted)
    assert halted.error.message.startswith("SLURM job 7_1 ran out of memory (OUT_OF_MEMORY)")


def test_a_stop_ends_the_following_alone(store, cells, slurm):
    record(store.root, ["7"], [[cells[0].hash]])
    slurm("squeue", "7|RUNNING|None")
    follow(tasks(cells[:1], store), store.root, on_event=None, interrupts=SimpleNamespace(asked=True))


def test_following_ends_where_no_submission_can_be_read(store, cells, slurm, monkeypatch):
    monkeypatch.setattr(runner, "GLANCE", 0.0)
    monkeypatch.setattr(runner, "ASK", 0.0)
    record(store.root, ["7"], [[cells[0].hash]])
    (store.root / "slurm" / "7.json").write_text("{")
    told = []
    note = lambda task, event: told.append(event)  # noqa: E731
    follow(tasks(cells[:1], store), store.root, on_event=note, interrupts=SimpleNamespace(asked=False))
    [halted] = told
    assert halted.error.message.startswith("no submission that can be read names its SLURM job")


class Meanwhile:
    """Interrupts that nobody asks for; something happens when they are looked at first."""

    def __init__(self, happens) -> None:
        self._happens = [happens]

    @property
    def asked(self) -> bool:
        while self._happens:
            self._happens.pop()()
        return False


@pytest.fixture
def whole_job(store, cells, monkeypatch):
    """Runs a job of two cells for its whole time, in which something happens; what SLURM's signal then leads to."""
    clock = [1e6]
    monkeypatch.setattr(slurm_job.time, "monotonic", lambda: clock[0])

    def run(happens, *, already: int = 0):
        if already:
            _epochs(begin(store, cells[0]), already)
        [bundle] = bundles(tasks(cells[:2], store), Execution(store), 2, minutes=10, stop_before=10)

        def meanwhile(*_) -> None:
            clock[0] += 600
            happens()

        monkeypatch.setattr(slurm_job, "run_here", meanwhile)
        bundle()
        return bundle, bundle.checkpoint()

    return run


def _epochs(writer, count: int) -> None:
    for epoch in range(count):
        writer.append({"epoch": epoch})


def test_a_job_that_is_too_short_for_an_epoch_is_not_queued_again(whole_job, capsys):
    assert whole_job(lambda: None)[1] is None
    assert "no cell got further than before within the job's time limit" in capsys.readouterr().err


def test_a_job_that_finished_an_epoch_is_queued_again(whole_job, store, cells):
    bundle, again = whole_job(lambda: _epochs(begin(store, cells[0]), 1))
    assert (again.function.tasks, again.function.minutes) == (bundle.tasks, 10)
    assert bundle.tasks[0].folder.is_absolute()


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_cell_that_began_again_is_no_further_until_it_has_more_epochs(whole_job, store, cells, epochs):
    def begin_again() -> None:
        (store.folder(cells[0]) / "history.csv").unlink()
        _epochs(begin(store, cells[0]), epochs)

    assert whole_job(begin_again, already=3)[1] is None


def test_another_cell_of_the_job_got_further(whole_job, store, cells):
    def happens() -> None:
        (store.folder(cells[0]) / "history.csv").unlink()
        _epochs(begin(store, cells[1]), 1)

    assert whole_job(happens, already=3)[1] is not None


def test_a_signal_before_the_job_has_begun_queues_it_again(store, cells, monkeypatch):
    monkeypatch.setattr(slurm_job.time, "monotonic", lambda: 1e6)
    [bundle] = bundles(tasks(cells[:2], store), Execution(store), 2, minutes=10, stop_before=10)
    assert bundle.checkpoint().function.tasks == bundle.tasks


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_slurms_signal_asks_once_and_then_ends_what_does_not_stop():
    before = signal.getsignal(signal.SIGALRM)
    with Limit(60.0) as limit:
        assert not limit.notice()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert limit.asked
        assert limit.notice()
        assert not limit.notice()
    with pytest.raises(KeyboardInterrupt), Limit(0.01):  # noqa: PT012 - what happens while it is entered
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "state", "again"),
    [
        (signal.SIGTERM, "RUNNING", True),  # it is preempted, within the GraceTime
        (signal.SIGTERM, "COMPLETING", False),  # it was cancelled, or its time is over
        (signal.SIGTERM, "", False),
        (signal.SIGUSR2, "COMPLETING", True),
    ],
)
def test_a_job_that_slurm_ends_is_queued_again_unless_it_was_cancelled(
    *, store, cells, slurm, monkeypatch, number, state, again
):
    slurm("squeue", *([f"41_3|{state}|None|0|dmlbench"] if state else []))
    for name, value in {"SLURM_JOB_ID": "47", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm_job, "run_here", lambda *_: os.kill(os.getpid(), number))
    queued = []
    before = {own: signal.getsignal(own) for own in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGUSR2, lambda *_: queued.append(True))
    try:
        [bundle] = bundles(tasks(cells[:2], store), Execution(store), 2, minutes=10, stop_before=10)
        bundle()
    finally:
        for own, handler in before.items():
            signal.signal(own, handler)
    assert bool(queued) is again


@pytest.fixture
def submit_here(tmp_path, monkeypatch):
    """Runs a bundle as submitit's local executor does: in a process that is started again where it asks for that."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def submit(*changes: str, methods: str = "ms", minutes: int = 30):
        own = plan(Request((methods,), ("glyphs",), (0,), settings=(*TINY, "training.epochs=3")))
        own += plan(Request((methods,), ("glyphs",), (0,), settings=(*TINY, *changes)))
        store = Store(tmp_path / "runs")
        [bundle] = bundles(tasks(own, store), Execution(store), 2, minutes, 120)
        executor = LocalExecutor(tmp_path / "jobs")
        executor.update_parameters(timeout_min=10)
        return executor.submit(bundle), [store.folder(cell) for cell in own]

    return submit


@pytest.mark.slow
def test_a_cell_that_fails_does_not_stop_the_others_of_its_job(submit_here):
    job, folders = submit_here("training.epochs=2", "training.learning_rate=1e30")
    assert job.result() == "2 of 2 cells have a result", job.stderr()
    found = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert [summary["status"] for summary in found] == ["done", "failed"]
    assert found[1]["error"]["kind"] == "diverged"
    assert "epoch 1 of" in (folders[0] / "log.txt").read_text()


@pytest.mark.slow
def test_a_job_that_is_told_its_end_finishes_the_epoch_and_starts_again(submit_here):
    job, folders = submit_here("training.epochs=12", minutes=1)
    history = folders[0] / "history.csv"
    while not history.is_file() or len(history.read_text().splitlines()) < 3:
        time.sleep(0.1)
    controller = psutil.Process(job._process.pid)
    [process] = [own for own in controller.children() if "submitit.core._submit" in own.cmdline()]
    for own in [process, *process.children(recursive=True)]:  # as SLURM does
        own.send_signal(signal.SIGUSR2)
    assert job.result() == "2 of 2 cells have a result", job.stderr()
    found = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert [summary["status"] for summary in found] == ["done", "done"]
    assert [len(summary["resumed"]) for summary in found] in ([1, 0], [1, 1])  # one core runs one cell at a time
    assert "stopping after this epoch" in job.stderr()
