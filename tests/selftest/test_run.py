"""The process that runs checks survives all of them, and the command says how they ended."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner

from dmlbench.cli.selftest import command
from dmlbench.errors import UserError
from dmlbench.selftest import run as module
from dmlbench.selftest.run import run_checks
from tests.selftest.broken import STARTED, check_of, work_on_a_pretended_gpu
from tests.selftest.test_records import BAD, GOOD, SKIPPED, make_report, record


def test_checks_end_in_every_way_and_the_others_run():
    told = []
    checks = [
        check_of("fine", most=30.0), check_of("skipping"), check_of("off"), check_of("dying"), check_of("raising"),
        check_of("fine"), check_of("fine", seconds=1e6),
    ]  # fmt: skip
    report = run_checks("cpu", 60, lambda check, found: told.append((check.name, found and found.status)), checks)
    fine, skipping, off, dying, raising, later, late = report.checks
    assert [own.status for own in report.checks] == ["pass", "skipped", "fail", "fail", "fail", "pass", "skipped"]
    assert skipping.reason == "nothing to see here"
    assert off.reason == "error: 0.002 (at most 0.001)"
    assert dying.reason.startswith("the worker process ended with signal SIGSEGV")
    assert dying.reason.endswith("; it last said: last words")
    assert raising.reason == "RuntimeError: no kernel image is available"
    assert late.reason == "no time left (--minutes 60)"
    assert fine.figures[0] != later.figures[0]  # after a failure in a fresh process
    assert fine.figures[1].value <= 30.0
    assert later.figures[1].value == 1.0
    assert told[:4] == [("fine", None), ("fine", "pass"), ("skipping", None), ("skipping", "skipped")]
    assert report.device == "cpu"
    assert report.environment.cpu
    assert len(report.code.digest) == 16
    assert len(report.failed) == 3


def running(number: int) -> bool:
    """Whether a process is there; one that nobody has waited for is not."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(holds) -> None:
    deadline = time.monotonic() + 300  # a shared machine starts processes slowly
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_check_that_hangs_is_ended_with_what_it_started_and_the_others_run(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "GRACE", 5.0)
    monkeypatch.setenv(STARTED, str(tmp_path / "started"))
    hanging, fine = run_checks("cpu", 60, lambda *_: None, [check_of("hanging", seconds=0.5), check_of("fine")]).checks
    assert (hanging.status, hanging.reason) == ("fail", "did not end within 7 s")
    assert fine.status == "pass"
    wait_until(lambda: not running(int((tmp_path / "started").read_text())))


def test_a_process_that_does_not_start(monkeypatch):
    monkeypatch.setattr(module, "START", 0.0)
    with pytest.raises(UserError, match="the worker process did not start within 0 s; see `dmlbench doctor`"):
        run_checks("cpu", 60, lambda *_: None, [check_of("fine")])


def test_nothing_outlives_a_selftest_that_is_killed(tmp_path):
    code = (
        "from dmlbench.selftest.run import run_checks; from tests.selftest.broken import check_of; "
        "run_checks('cpu', 60, lambda *_: None, [check_of('hanging', seconds=50.0)])"
    )
    started, root = tmp_path / "started", Path(__file__).parents[2]
    environment = os.environ | {STARTED: str(started), "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as selftest:
        try:
            wait_until(lambda: started.exists() and started.read_text())
        finally:
            selftest.kill()
    wait_until(lambda: not running(int(started.read_text())))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there():
    with pytest.raises(UserError, match="--device cuda: torch sees no CUDA device"):
        run_checks("cuda", 1, lambda *_: None, [check_of("fine")])


def test_a_variable_that_lowers_the_precision_is_one_line(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setattr(module, "_work", work_on_a_pretended_gpu)
    with pytest.raises(UserError) as caught:
        run_checks("cuda", 1, lambda *_: None, [check_of("fine")])
    assert str(caught.value).startswith("NVIDIA_TF32_OVERRIDE=1: decides over TF32")
    assert str(caught.value).endswith("; unset NVIDIA_TF32_OVERRIDE")


def test_the_parent_imports_no_torch():
    code = "import sys; import dmlbench.cli.selftest, dmlbench.selftest.run; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("checks", "code"), [([record(GOOD), SKIPPED], 0), ([record(GOOD), record(BAD, name="faiss")], 1)]
)
def test_the_exit_code_and_what_is_printed(monkeypatch, tmp_path, checks, code):
    monkeypatch.chdir(tmp_path)

    def run(device, minutes, tell):
        assert (device, minutes) == ("cpu", 7)
        tell(module.CHECKS[0], None)
        tell(module.CHECKS[0], checks[0])
        return make_report(*checks)

    monkeypatch.setattr(module, "run_checks", run)
    done = CliRunner().invoke(command, ["--device", "cpu", "--minutes", "7"], standalone_mode=False)
    assert done.exception is None
    assert done.return_value == code
    assert "[1/12] losses: pass in 2 s" in done.output
    for own in checks:
        assert own.name in done.output
        assert own.status in done.output
        assert own.lines[0] in done.output
    (folder,) = (tmp_path / "results" / "runs" / "selftest").iterdir()
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md"}


def test_a_mistyped_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, ["--device", "gpu"], standalone_mode=False)
    assert isinstance(done.exception, UserError)
    assert "--device: unknown device 'gpu'" in str(done.exception)
    assert not (tmp_path / "results").exists()
