"""Modifiers equal their official codes, run on the batches of `tests/goldens/losses_*.npz`, in loss and gradient.

XBM: msight-tech/research-xbm, with labels from 1, for its memory takes 0 for empty. RKD: lenscloth/RKD. LSD:
ZelongZeng/Improving-Generalization-of-Metric-Learning-via-Listwise-Self-distillation, with its two undefined options
`f_distillation_standard` true and beta 1. EMA: CausalityHQ/sfora.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dmlbench.losses import CosineContrastiveLoss, MultiSimilarityLoss, TripletLoss
from dmlbench.modifiers import (
    XBM,
    angular_loss,
    distillation_loss,
    neighbourhood_loss,
    psd_targets,
    relational_loss,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
SIZES = ("32x64", "112x128")
TOLERANCE = 1e-5
EVERY = pytest.mark.parametrize("size", SIZES)


@cache
def load(size):
    found = {}
    for name in ("losses", "modifiers"):
        with np.load(GOLDENS / f"{name}_{size}.npz") as archive:
            found |= {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}
    return found


def with_references(loss):
    return lambda own, golden: loss(
        own, golden["labels"], references=golden["xbm/references"], reference_labels=golden["xbm/reference_labels"]
    )


def multi_similarity(own, golden):
    """The official code divides by the batch, we by the anchors that count."""
    share = golden["xbm/multi_similarity/anchors"] / len(own)
    return share * with_references(MultiSimilarityLoss())(own, golden)


def lsd(own, golden):
    alpha, tau, epoch, epochs = golden["lsd/settings"].tolist()
    divergence = distillation_loss(own, psd_targets(golden["teacher"], tau), tau)
    return TripletLoss()(own, golden["labels"], golden["triplets"]) + epoch / epochs * alpha * divergence


COMPUTE = {
    "cosine_contrastive": lambda own, golden: CosineContrastiveLoss()(own, golden["labels"]),
    "xbm/cosine_contrastive": with_references(CosineContrastiveLoss()),
    "xbm/multi_similarity": multi_similarity,
    "rkd/distance": lambda own, golden: relational_loss(own, golden["teacher"]),
    "rkd/angle": lambda own, golden: angular_loss(own, golden["teacher"]),
    "ema": lambda own, golden: neighbourhood_loss(own, golden["teacher"], 0.1),
    "lsd": lsd,
}


@EVERY
@pytest.mark.parametrize("name", COMPUTE)
def test_equals_official(name, size):
    golden = load(size)
    own = golden["embeddings"].clone().requires_grad_()
    loss = COMPUTE[name](own, golden)
    loss.backward()
    gradient = own.grad
    if name == "ema":  # that code normalises once more, which leaves of a gradient what is tangential to the sphere
        gradient = gradient - own.detach() * (own.detach() * gradient).sum(1, keepdim=True)
    for actual, expected in ((loss.detach(), golden[f"{name}/loss"]), (gradient, golden[f"{name}/grad"])):
        error = actual - expected
        assert error.norm() <= TOLERANCE * expected.norm()
        assert error.abs().max() <= TOLERANCE * expected.abs().max()


@EVERY
def test_files_hold_every_kind_of_result(size):
    with np.load(GOLDENS / f"modifiers_{size}.npz") as archive:
        assert {key.removesuffix("/loss") for key in archive.files if key.endswith("/loss")} == set(COMPUTE)


def test_a_memory_holds_what_the_official_one_holds():
    """Two and a half batches: the third takes the last places, and the fourth the first."""
    golden = load("32x64")
    memory = XBM(size=80, start=0)
    memory.register_buffer("embeddings", torch.zeros(80, 64))
    memory.register_buffer("labels", torch.zeros(80, dtype=torch.int64))
    for number in range(5):
        given, held = f"memory/given{number}", f"memory/held{number}"
        memory.remember(golden[f"{given}/embeddings"], golden[f"{given}/labels"])
        embeddings, labels = memory.held()
        assert torch.equal(embeddings, golden[f"{held}/embeddings"])
        assert torch.equal(labels, golden[f"{held}/labels"])
