"""Losses and gradients equal those of the published implementations, recorded in `tests/goldens/more_losses_*.npz`.

A file holds the parameters, the results and, under `NAME/source`, repository, commit and settings; its batches are
those of `losses_*.npz`.
"""

from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dmlbench.losses import (
    ArcFaceLoss,
    CircleLoss,
    CosFaceLoss,
    NormalisedSoftmaxLoss,
    NTXentLoss,
    ProxyNCAPlusPlusLoss,
    RecallAtKLoss,
    SmoothAPLoss,
    SoftTripleLoss,
    SpherePairLoss,
    SupConLoss,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
BATCHES = ("32x64", "112x128")
TOLERANCE = 1e-5
OF_PROXIES = {
    "normalised_softmax": NormalisedSoftmaxLoss,
    "cosface": CosFaceLoss,
    "arcface": partial(ArcFaceLoss, scale=64),
    "proxy_nca_pp": ProxyNCAPlusPlusLoss,
}
OF_PAIRS = {
    "supcon": SupConLoss,
    "nt_xent": NTXentLoss,
    "circle": partial(CircleLoss, over="batch"),
    "smooth_ap": SmoothAPLoss,
    "recall_at_k": RecallAtKLoss,
    "sphere_pair": SpherePairLoss,
}
NAMES = (*OF_PROXIES, "soft_triple", *OF_PAIRS)


@cache
def load(batch):
    """Results and parameters by key, and the batch they are of."""
    found = {}
    for file in (f"losses_{batch}", f"more_losses_{batch}"):
        with np.load(GOLDENS / f"{file}.npz") as archive:
            keys = archive.files if file.startswith("more") else ("embeddings", "labels")
            found |= {key: archive[key] for key in keys}
    return found


def build(name, golden):
    """The loss with the settings of the recorded run and its parameters."""
    proxies = torch.from_numpy(golden["proxies"])
    if name in OF_PROXIES:
        loss = OF_PROXIES[name](*proxies.shape)
        loss.proxies.data.copy_(proxies)
        return loss
    if name == "soft_triple":
        centres = torch.from_numpy(golden["soft_triple/centres"])
        loss = SoftTripleLoss(*proxies.shape, centres_per_class=len(centres) // len(proxies))
        loss.centres.data.copy_(centres)
        return loss
    return OF_PAIRS[name]()


@cache
def ours(batch, name):
    golden = load(batch)
    loss = build(name, golden)
    embeddings = torch.from_numpy(golden["embeddings"]).clone().requires_grad_()
    value = loss(embeddings, torch.from_numpy(golden["labels"]))
    value.backward()
    learned = {f"grad_{key}": parameter.grad for key, parameter in loss.named_parameters()}
    return {"loss": value.detach(), "grad": embeddings.grad} | learned


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_published_implementation(batch, name):
    golden = load(batch)
    found = ours(batch, name)
    recorded = {key.partition("/")[2] for key in golden if key.startswith(f"{name}/")}
    assert recorded - {"source", "centres"} == set(found)
    for key, actual in found.items():
        expected = torch.from_numpy(np.asarray(golden[f"{name}/{key}"]))
        assert actual.shape == expected.shape
        error = actual - expected
        assert error.norm() <= TOLERANCE * expected.norm()
        assert error.abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("batch", BATCHES)
def test_every_result_names_its_repository_and_settings(batch):
    golden = load(batch)
    recorded = {key.partition("/")[0] for key in golden if key.endswith("/loss")}
    assert recorded == set(NAMES)
    for name in recorded:
        repository, _, settings = str(golden[f"{name}/source"]).partition(", ")
        assert "/" in repository
        assert settings
