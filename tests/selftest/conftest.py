"""Conditions on this machine's CPU, and a cache folder of the tests' own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dmlbench.selftest.conditions import CPU, Conditions
from dmlbench.selftest.records import CheckRecord
from dmlbench.selftest.table import CHECKS
from dmlbench.selftest.worker import run_check


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    """Checks set threads and determinism of the process, and torch's stream."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def check(tmp_path: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CheckRecord]:
    """Runs a check of the table by its name, here and on the CPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_cache))
    monkeypatch.chdir(tmp_path)  # no methods/ of a checkout

    def run(name: str, seconds: float = 0.0) -> CheckRecord:
        (found,) = [own for own in CHECKS if own.name == name]
        return run_check(found, Conditions(CPU, seconds, tmp_path))

    return run


def broken(record: CheckRecord) -> set[str]:
    """The names of the figures that do not keep their bounds; the record must say that it failed because of them."""
    names = {figure.name for figure in record.figures if not figure.holds}
    assert record.status == ("fail" if names else "pass"), record.reason
    assert bool(record.reason) == bool(names)
    return names
