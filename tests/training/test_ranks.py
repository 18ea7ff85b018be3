"""Two processes, each with half of every batch, train as one with the whole batch does."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dmlbench.errors import UserError
from dmlbench.models.model import EmbeddingModel
from dmlbench.models.parts import check_separable
from dmlbench.training.ranks import ALONE, Ranks
from tests.training.ranks import METHODS, MUTATIONS, PLUGIN, YAML, first_batch, small_protocol, train_as, trained

Found = dict[str, dict[str, torch.Tensor]]
BOUND = 1e-9


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


@pytest.fixture(scope="module")
def alone(folder) -> Found:
    """What one process found that forwards whole batches."""
    return {name: trained(name, folder / "methods") for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_train_as_one_process(both, alone, name):
    """Losses of six steps, and weights after them; in float64, for in float32 rounding alone is up to 1e-5 of them."""
    assert furthest(both[0][name], alone[name]) < BOUND
    assert alone[name]["losses"][:, 0].gt(0).all()
    if "+" in name:
        assert alone[name]["losses"][-1, 1] != 0


@pytest.mark.parametrize("name", METHODS)
def test_all_ranks_have_the_same_weights(both, name):
    assert furthest(both[0][name], both[1][name]) == 0


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_train_as_whole_batches(alone, folder, name):
    assert furthest(trained(name, folder / "methods", micro_batch_size=3), alone[name]) < BOUND


@pytest.mark.parametrize(("name", "decoded"), [("ms+obdsd", 4), ("contrastive+dm2", 4), ("ms+flips", 8)])
def test_a_rank_prepares_its_part_unless_a_users_modifier_may_read_all(folder, name, decoded):
    whole, parts = (first_batch(name, folder / "methods", ranks) for ranks in (ALONE, Ranks(1, 2)))
    assert torch.equal(parts.images, whole.images[-decoded:])
    assert torch.equal(parts.labels, whole.labels)
    assert torch.equal(parts.indices, whole.indices)


def test_ranks_of_other_optimisers(folder):
    """Adam; gradients that wait, are bounded, and are of micro-batches of a part."""
    settings = {
        "adam": {"optimizer": "adam", "learning_rate": 1e-3, "eps": 1e-4},
        "waiting": {"accumulate": 2, "clip_norm": 0.5, "micro_batch_size": 3},
    }
    names = ["proxyanchor", "contrastive+dm2"]
    for own, training in settings.items():
        found = ranks_of(folder, own, names, **training)
        for name in names:
            assert furthest(found[0][name], trained(name, folder / "methods", **training)) < BOUND


@pytest.mark.parametrize("mutation", [name for name in MUTATIONS if name])
def test_another_scale_of_the_gradient_would_show(alone, folder, mutation):
    found = ranks_of(folder, mutation, ["ms", "proxyanchor"], mutation)
    assert furthest(found[0]["ms"], alone["ms"]) > 1e-4
    assert furthest(found[0]["proxyanchor"], alone["proxyanchor"]) > 1e-4


def test_networks_that_see_other_images_of_the_batch_are_refused():
    """BatchNorm that uses statistics of the batch, and random numbers, which each rank would draw for itself."""
    image = small_protocol().input
    for layer, said in ((nn.BatchNorm1d(256), "BatchNorm of small would use"), (nn.Dropout(), "draws random numbers")):
        backbone = nn.Sequential(nn.Flatten(), layer)
        with pytest.raises(UserError, match=f"--gpus-per-cell: .*{said}"):
            check_separable("small", EmbeddingModel(backbone, 256, nn.Linear(256, 4), freeze_batchnorm=False), image)
    head = nn.Sequential(nn.Linear(256, 4), nn.BatchNorm1d(4), nn.Dropout())  # sees the whole batch on every rank
    check_separable("small", EmbeddingModel(backbone[:1], 256, head, freeze_batchnorm=False), image)
