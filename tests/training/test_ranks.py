"""Two processes, each with half of every batch, train as one with the whole batch does."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.ranks import METHODS, PLUGIN, YAML, train_as, trained

Found = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the methods of a user."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "methods").mkdir()
    (folder / "methods" / "flips.yaml").write_text(YAML)
    (folder / "methods" / "flips.py").write_text(PLUGIN)
    return folder


def ranks_of(folder: Path, name: str, methods: list[str], mutation: str = "", **training: Any) -> list[Found]:
    """What each of two processes found."""
    own = folder / name
    own.mkdir()
    context = multiprocessing.get_context("spawn")
    arguments = [(rank, 2, own, methods, training, mutation) for rank in (0, 1)]
    processes = [context.Process(target=train_as, args=given) for given in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(own / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.fixture(scope="module")
def both(folder) -> list[Found]:
    return ranks_of(folder, "both", list(METHODS))


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_train_as_one_process(both, folder, name):
    """Losses of six steps, and weights after them, to 1e-6 in float32."""
    whole = trained(name, folder / "methods")
    print(name, furthest(both[0][name], whole))
    assert furthest(both[0][name], whole) < 1e-6
    assert whole["losses"][:, 0].gt(0).all()
    if "+" in name:
        assert whole["losses"][-1, 1] != 0


@pytest.mark.parametrize("name", METHODS)
def test_all_ranks_have_the_same_weights(both, name):
    assert furthest(both[0][name], both[1][name]) == 0
