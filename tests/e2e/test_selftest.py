"""`dmlbench selftest` on this machine's CPU."""

import json
from pathlib import Path

import pytest

from dmlbench.selftest.records import Report
from dmlbench.selftest.table import CHECKS
from tests.e2e.conftest import Command

NUMBERS = ("losses", "modifiers", "metrics", "faiss")  # what fits into a minute on any machine
TIMED = ("loader", "overhead")  # on a machine that others use, anything may come out


@pytest.fixture
def dmlbench(installed: Command) -> Command:
    """The installed script: what reaches a GPU is a process of its own."""
    return installed


@pytest.mark.slow
def test_all_checks_on_a_cpu_and_what_does_not_fit_is_skipped(dmlbench: Command, tmp_path: Path) -> None:
    runs = tmp_path / "results" / "runs" / "selftest"
    hurried = dmlbench("selftest", "--device", "cpu", "--minutes", "1", timeout=600)
    (first,) = runs.iterdir()
    checks = {own["name"]: own for own in json.loads((first / "report.json").read_text())["checks"]}
    assert all(checks[name]["status"] == "pass" for name in NUMBERS), hurried.stdout
    assert checks["overhead"]["reason"] == "no time left (--minutes 1)"
    assert "no time left (--minutes 1)" in hurried.stdout

    done = dmlbench("selftest", "--device", "cpu", "--minutes", "10", timeout=900)
    (folder,) = set(runs.iterdir()) - {first}  # the earlier report stays
    report = Report.model_validate_json((folder / "report.json").read_text())
    assert [check.name for check in report.checks] == [check.name for check in CHECKS]
    ended = {check.name: check.status for check in report.checks if check.name not in TIMED}
    assert ended.pop("waits") == "skipped"
    assert set(ended.values()) == {"pass"}, done.stdout
    assert all(len(check.figures) >= 2 for check in report.checks if check.name != "waits")
    assert done.returncode == bool(report.failed)
    assert report.verdict in done.stdout
    assert f"written to results/runs/selftest/{folder.name}" in done.stdout
    assert (folder / "report.md").read_text().count("\n| ") == len(CHECKS) + 1
    assert dmlbench("status").returncode != 1, "a self-test is no damaged cell"


def test_one_clear_line(dmlbench: Command, tmp_path: Path) -> None:
    for arguments, said in (
        (("--device", "gpu"), "error: --device: unknown device 'gpu'"),
        (("--minutes", "0"), "error: Invalid value for '--minutes'"),
    ):
        done = dmlbench("selftest", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()
