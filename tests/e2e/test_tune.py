"""Tuning through the real command line: killed and gone on with, used by a run, shown by a report."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from dmlbench.specs.tuned import read_tuned
from tests.e2e.conftest import TINY, Command

TUNE = ("tune", "--methods", "ms,ms+psd", "--datasets", "glyphs", "--epochs", "16", *TINY)
RUN = ("run", "--methods", "ms,ms+psd", "--datasets", "glyphs", "--seeds", "2", *TINY, "--tracking", "none")
ONE_EPOCH = ("--set", "training.epochs=1")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_tuning_ends_as_an_undisturbed_one(
    dmlbench: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    whole = dmlbench(*TUNE, "--results", "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    script = str(Path(sys.executable).with_name("dmlbench"))
    for trained in (3, 9):  # of 16: in the first stage of the base, and in the search on top of it
        with subprocess.Popen(
            [script, *TUNE, "--results", "killed"], cwd=tmp_path, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as begun:  # fmt: skip
            while len(list(tmp_path.glob("killed/tuning/trials/*/*/*/*/summary.json"))) < trained:
                assert begun.poll() is None, "the tuning ended before it was killed"
                time.sleep(0.05)
            os.killpg(begun.pid, signal.SIGKILL)
    last = dmlbench(*TUNE, "--results", "killed")
    assert last.returncode == 0, last.stdout + last.stderr
    files = [read_tuned(tmp_path / name / "tuning" / "tuned.yaml") for name in ("whole", "killed")]
    found = [[entry.model_copy(update={"command": ""}) for entry in file.entries] for file in files]
    assert found[0] == found[1]
    assert [(entry.method, entry.budget, entry.epochs) for entry in found[0]] == [("ms", 16, 16), ("ms+psd", 16, 16)]
    assert "8 full trainings of 2 epochs, of which the schedule takes 16" in last.stdout

    looked = dmlbench("status", "--results", "killed")
    said = (
        "killed: no cells yet; killed/tuning holds 16 trainings of `dmlbench tune`; `dmlbench run --results` fills it\n"
    )
    assert (looked.stdout, looked.returncode) == (said, 0)
    other = dmlbench(*RUN, "--tuned", "killed/tuning/tuned.yaml", "--set", "training.epochs=3")
    assert other.returncode == 2
    options = f"the options of `dmlbench {' '.join(TUNE)} --results killed`"
    assert f"give {options}, or `dmlbench tune --methods ms" in other.stderr

    _a_run_takes_the_values(dmlbench, tmp_path)


def test_two_tunings_of_one_folder(dmlbench: Command, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "runs" / "tuning"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        refused = dmlbench(*TUNE)
    assert refused.returncode == 2
    assert "results/runs/tuning: another `dmlbench tune` is at it" in refused.stderr
    assert not list(folder.rglob("spec.yaml"))


def test_a_damaged_overlay_is_told_of_before_the_trials(dmlbench: Command, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "runs" / "tuning"
    folder.mkdir(parents=True)
    (folder / "tuned.yaml").write_text("version: 7\n")
    refused = dmlbench(*TUNE)
    assert refused.returncode == 2
    assert "tuned.yaml: version" in refused.stderr
    assert not list(folder.rglob("spec.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trials", "8"), "--trials: is no option of tune any more, budgets are counted in epochs; --epochs N: the"),
        (("--epochs", "16", "--seeds", "2"), "--seeds: is no option of tune any more, the schedule decides on seeds"),
        ((), "--epochs: is required, the total epochs of training per method and dataset; for example --epochs 320"),
        (("--epochs", "15"), "--epochs 15: too few for a search under a protocol of 2 epochs; give 16 or more; 32 is"),
        (("--epochs", "0"), "--epochs"),
        (("--epochs", "16", "--study-seed", "-1"), "--study-seed"),
    ],
)
def test_a_budget_that_is_none(dmlbench: Command, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    refused = dmlbench("tune", "--methods", "ms", "--datasets", "glyphs", *TINY, *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list((tmp_path / "results").rglob("*")) or not list(tmp_path.rglob("spec.yaml"))


def test_an_overlay_of_another_version_is_not_added_to(dmlbench: Command, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "runs" / "tuning"
    folder.mkdir(parents=True)
    (folder / "tuned.yaml").write_text("version: 1\n")
    refused = dmlbench(*TUNE)
    assert refused.returncode == 2
    assert "tuned.yaml: version: must be 2, not 1" in refused.stderr
    assert "move the file away" in refused.stderr
    assert (folder / "tuned.yaml").read_text() == "version: 1\n"


def _a_run_takes_the_values(dmlbench: Command, tmp_path: Path) -> None:
    for tuned in ((), ("--tuned",)):
        done = dmlbench(*RUN, *tuned, "--results", "whole")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "ms+psd{tuned}" in done.stdout
    assert "tuned: 16 epochs of search on held-out training classes, chosen by MAP@R on 2 class-disjoint" in done.stdout
    again = dmlbench(*RUN, "--tuned", "whole/tuning/tuned.yaml", "--results", "whole")
    assert "4 there already" in again.stdout
    assert dmlbench("status", "--verify", "--results", "whole").returncode == 0
    page = dmlbench("report", "--name", "tuned", "--results", "whole")
    assert page.returncode == 0, page.stderr
    report = tmp_path / "reports" / "tuned"
    table = pd.read_csv(report / "tables" / "tuning.csv").query("metric == 'recall_at_1' and selection == 'last'")
    assert list(table["method"]) == ["ms{tuned}", "ms+psd{tuned}"]
    assert list(table["budget"]) == ["16 epochs", "16 epochs"]
    assert list(table["n"]) == [2, 2]
    compared = pd.read_csv(report / "tables" / "comparisons.csv")
    assert set(zip(compared["method"], compared["to"], strict=True)) == {
        ("ms+psd", "ms"),
        ("ms+psd{tuned}", "ms{tuned}"),
    }
    text = (report / "report.md").read_text()
    assert "--tuned tuned.yaml" in text
    assert "What each study of tuning chose" in text
    assert "_trace.png" in text
    finalists = pd.read_csv(report / "tables" / "tuning_finalists.csv")
    assert list(finalists["method"]) == ["ms", "ms", "ms+psd", "ms+psd"]
    assert finalists["held_out"].between(0, 1).all()
    files = finalists[finalists["files"]].set_index("method")
    assert files.loc["ms", "seeds"] == 2  # what was run with the files' values


def test_status_of_the_folder_around_the_results_names_them(dmlbench: Command, tmp_path: Path) -> None:
    (tmp_path / "results" / "runs").mkdir(parents=True)
    looked = dmlbench("status", "--results", "results")
    assert looked.stdout == "results: no cells yet; name results/runs with --results\n"


@pytest.mark.slow
def test_trials_in_which_no_teacher_acts_are_told_of(dmlbench: Command) -> None:
    done = dmlbench("tune", "--methods", "ms+psd", "--datasets", "glyphs", "--epochs", "8", *TINY, *ONE_EPOCH)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index("no teacher acts; ms+psd trains like its base") < done.stdout.index("explore 1 of 4")
