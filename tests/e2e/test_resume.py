"""A matrix that is killed at any moment ends with the numbers of one that was not."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Command, metric_columns

EPOCHS = 8
FOUR = ("run", "--methods", "ms+psd,margin", "--datasets", "glyphs", "--seeds", "2", "--tracking", "none")
SETTINGS = tuple(part.replace("epochs=2", f"epochs={EPOCHS}") for part in TINY)
KILLS = 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_matrix_killed_at_random_moments(
    environment: dict[str, str], dmlbench: Command, tmp_path: Path, record_property
) -> None:
    begin = time.monotonic()
    undisturbed = dmlbench(*FOUR, *SETTINGS, "--results", "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr

    whole = time.monotonic() - begin

    seed = random.SystemRandom().randrange(10**6)
    record_property("seed", seed)
    print(f"moments drawn with seed {seed}")
    moments = random.Random(seed)  # noqa: S311 - no secret
    script = str(Path(sys.executable).with_name("dmlbench"))
    kills = 0
    while kills < KILLS:
        begun = subprocess.Popen(
            [script, *FOUR, *SETTINGS, "--results", "killed"],
            cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            begun.wait(moments.uniform(0.03, 0.3) * whole)
            # A machine that has less to do than in the undisturbed run may finish in between.
            assert kills >= KILLS // 2, "the matrix ended before it was killed so often; give it more epochs"
            break
        except subprocess.TimeoutExpired:
            kills += 1
        if moments.random() < 0.3:  # the runner alone: its workers must notice
            begun.kill()
        else:
            os.killpg(begun.pid, signal.SIGKILL)
        begun.wait()

    last = dmlbench(*FOUR, *SETTINGS, "--results", "killed")
    assert last.returncode == 0, last.stdout + last.stderr
    assert metric_columns(tmp_path / "killed") == metric_columns(tmp_path / "undisturbed")
    logs = sorted((tmp_path / "killed").glob("*/*/*/*/log.txt"))
    assert len(logs) == 4
    for log in logs:
        _check_epochs(log.read_text())
    assert not list((tmp_path / "killed").rglob("checkpoint*"))
    assert not list((tmp_path / "killed").rglob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "executor"), [(signal.SIGINT, "local"), (signal.SIGTERM, "ray")])
def test_a_stop_at_any_time_is_no_failure(
    number: signal.Signals, executor: str, environment: dict[str, str], dmlbench: Command, tmp_path: Path
) -> None:
    """From the keyboard and from schedulers: while processes start, and while they train."""
    script = str(Path(sys.executable).with_name("dmlbench"))
    command = [script, *FOUR, *SETTINGS, "--executor", executor]
    for training in (False, True):
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        ) as run:  # fmt: skip
            assert run.stdout is not None
            lines = []
            for line in run.stdout:
                lines.append(line)
                if ": epoch 2 of" in line if training else "cells: " in line:
                    break
            time.sleep(0.0 if training else 0.8)
            if executor == "local":
                os.killpg(run.pid, number)
            else:  # the group is the cluster, too
                run.send_signal(number)
            output = "".join([*lines, *run.stdout])
        assert run.returncode == 130, output
        assert "stopping after this epoch" in output or not training
        assert "FAILED" not in output
        states = [cell["state"] for cell in json.loads(dmlbench("status", "--json").stdout)]
        assert set(states) <= {"interrupted", "missing"}, output
    assert any(cell["epoch"] >= 2 for cell in json.loads(dmlbench("status", "--json").stdout))


def _check_epochs(log: str) -> None:
    """Every attempt begins where the one before was interrupted: no earlier epoch is trained again."""
    begun = [int(epoch) for epoch in re.findall(r"epoch (\d+) of \d+ begins", log)]
    assert begun[0] == 1
    assert begun[-1] == EPOCHS
    for before, after in itertools.pairwise(begun):
        assert after in (before, before + 1)
