"""Cells and method folders made by hand, for the tests of this folder."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings

from dmlbench.results.store import Store
from dmlbench.runner import local
from dmlbench.specs.cell import Cell, DatasetSpec, MethodSpec, Part, ResolvedValue
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec, ProtocolSpec, TrainingSpec

# A deadline is an assertion on time, and machines that run tests are shared.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


def pytest_configure() -> None:
    """One thread: those of two workers on two cores wait for each other, for half of all processor time."""
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # of xdist's workers, and of the processes that tests start
        torch.set_num_threads(1)


# One process imports what workers need, and has no other threads; what a fresh interpreter does is tested elsewhere.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["dmlbench.runner.cell", "torch._dynamo"])


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of runs in this process are forked from one that has imported torch: each is there at once."""
    monkeypatch.setattr(local, "multiprocessing", SimpleNamespace(get_context=lambda _: FORKED))


HOLDER = """
import sys
from pathlib import Path
from dmlbench.results.locks import claim
with claim(Path(sys.argv[1])) as claimed:
    print(claimed is not None, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], tuple[subprocess.Popen[str], bool]]]:
    """Claims a folder in another process; gives the process and whether it got the lock."""
    processes = []

    def start(folder: Path) -> tuple[subprocess.Popen[str], bool]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process, process.stdout.readline().strip() == "True"

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def make_cell() -> Callable[..., Cell]:
    """Cells of a tiny protocol: `make_cell("ms+psd", seed=1, epochs=3)`."""

    def make(method: str = "ms", seed: int = 0, dataset: str = "glyphs", version: str = "test", **training) -> Cell:
        protocol = ProtocolSpec(
            name="tiny",
            title="Tiny",
            model=ModelSpec(backbone="conv4", embedding_dim=4),
            input=InputSpec(channels=1, size=16, resize=16, mean=(0.0,), std=(1.0,), augmentation="none"),
            training=TrainingSpec(**({"epochs": 2, "learning_rate": 0.001} | training)),
        )
        base, _, modifier = method.partition("+")
        return Cell(
            method=MethodSpec(
                name=method,
                loss=_part(base, "loss", "multi_similarity", alpha=2.0),
                distillation=_part(modifier, "distillation", "psd", tau=1.0) if modifier else None,
            ),
            dataset=DatasetSpec(name=dataset, version=version),
            protocol=protocol,
            seed=seed,
        )

    return make


def _part(name: str, kind: str, class_name: str, **values: float) -> Part:
    parameters = {key: ResolvedValue(value=value, source="a test") for key, value in values.items()}
    mode = "train" if kind == "distillation" else "eval"
    return Part(name=name, title=name, kind=kind, class_name=class_name, teacher_mode=mode, parameters=parameters)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that no `./methods` is found but the package's own files."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sets what a command of SLURM prints, and its exit code; before, none answers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def say(command: str, *lines: str, error: str = "", code: int = 0) -> Path:
        arguments = folder / f"{command}.arguments"
        said = "".join(f"echo '{line}'\n" for line in lines) + (f"echo '{error}' >&2\n" if error else "")
        (folder / command).write_text(f'#!/bin/sh\necho "$@" >> {arguments}\n{said}exit {code}\n')
        (folder / command).chmod(0o755)
        return arguments

    say("squeue", error="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    say("sacct", error="Slurm accounting storage is disabled", code=1)
    say("scontrol", error="slurm_load_ctl_conf error: Unable to contact slurm controller", code=1)
    return say
