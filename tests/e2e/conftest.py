"""Runs the real command line in a temporary folder, as a user would."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dmlbench.cli.main import main
from dmlbench.runner.signals import for_workers

# A network and images small enough that an epoch takes half a second.
TINY = (
    "--set", "training.epochs=2", "--set", "input.size=16", "--set", "input.resize=16",
    "--set", "model.embedding_dim=16", "--set", "evaluation.every=1",
)  # fmt: skip
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the test session's own, so that nobody's is touched."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DMLBENCH_"))}
    return kept | {"XDG_CACHE_HOME": str(cache)}


@pytest.fixture
def installed(tmp_path: Path, environment: dict[str, str]) -> Command:
    """The installed console script, run in the test's folder."""
    script = Path(sys.executable).with_name("dmlbench")

    def run(*arguments: str, cwd: Path = tmp_path, timeout: float = 480, **variables: str):
        return subprocess.run(
            [str(script), *map(str, arguments)],
            cwd=cwd,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def dmlbench(
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    forked_workers: None,
) -> Command:
    """The console script's function in this process, and workers that are forked: neither imports everything anew."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    set_by_the_function = for_workers() | {"PYTHONIOENCODING": ""}
    for name, value in set_by_the_function.items():  # undone at the end
        monkeypatch.setenv(name, value)

    def run(*arguments: str | Path, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["dmlbench", *map(str, arguments)])
        before, code = signal.getsignal(signal.SIGTERM), 0
        capfd.readouterr()
        try:
            with contextlib.chdir(cwd):
                main()
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, before)
        output, errors = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, output, errors)

    return run


def metric_columns(folder: Path) -> dict[str, list[list[str]]]:
    """The text of every history below a results folder, by dataset/method/seed, without its timing columns."""
    found = {}
    for path in sorted(folder.glob("*/*/*/*/history.csv")):
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        kept = [index for index, name in enumerate(rows[0]) if not name.startswith("time/")]
        seed = path.parent.name.partition("-")[0]
        key = "/".join((*path.parts[-4:-2], seed))
        found[key] = [[row[index] for index in kept] for row in rows]
    return found
