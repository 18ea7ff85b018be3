"""Forward + backward of each loss against pytorch-metric-learning's counterpart, 2 threads, batch 112 x 128.

    pytest -m benchmark tests/benchmarks/test_losses_speed.py -s

Mined losses run against its DistanceWeightedMiner and against its default of all pairs or triplets.
"""

from functools import partial

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners
from torch.nn.functional import normalize

from dmlbench.losses import (
    ArcFaceLoss,
    CircleLoss,
    ContrastiveLoss,
    CosFaceLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NormalisedSoftmaxLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    ProxyNCAPlusPlusLoss,
    SmoothAPLoss,
    SoftTripleLoss,
    SupConLoss,
    TripletLoss,
)
from dmlbench.modifiers import distillation_loss, obdsd_targets
from tests.benchmarks.by_turns import time_by_turns

pytestmark = pytest.mark.benchmark
BATCH, DIMENSION, CLASSES = 112, 128, 56


@pytest.fixture(autouse=True)
def two_threads(threads):
    threads(2)


HEADING = "Losses: forward and backward, batch 112 x 128, two threads"


def make_batch(classes=CLASSES):
    """Two images of each of 56 classes, as far from each other as early in a training."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randperm(classes, generator=generator)[:CLASSES].repeat_interleave(2)
    centres = torch.randn(CLASSES, DIMENSION, generator=generator).repeat_interleave(2, dim=0)
    noise = torch.randn(BATCH, DIMENSION, generator=generator)
    return normalize(centres + 1.5 * noise), labels


@pytest.fixture
def compare(row):
    """Adds a row and holds the ratio to its limit; both are called with the embeddings, and backpropagate."""
    embeddings = make_batch()[0].requires_grad_()

    def step(loss):
        def call():
            loss(embeddings).backward()

        return call

    def run(name, ours, theirs, limit, rounds=100):
        timings = time_by_turns({"ours": step(ours), "PML": step(theirs)}, rounds=rounds)
        ratio = timings.ratio_cells("ours", "PML")
        ours_ms, theirs_ms = (f"{1e3 * timings.median(which):.2f}" for which in ("ours", "PML"))
        row(HEADING, loss=name, **{"ours (ms)": ours_ms, "PML (ms)": theirs_ms, **ratio})
        assert timings.ratio("ours", "PML") <= limit

    return run


def test_multi_similarity(compare):
    _, labels = make_batch()
    ours, miner = MultiSimilarityLoss(), miners.MultiSimilarityMiner(epsilon=0.1)
    theirs = losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
    compare(
        "multi_similarity, mined",
        lambda e: ours(e, labels),
        lambda e: theirs(e, labels, miner(e, labels)),
        0.6,
    )


@pytest.mark.parametrize("mining", ["mined", "all"])
@pytest.mark.parametrize("name", ["contrastive", "triplet", "margin"])
def test_triplet_losses(compare, name, mining):
    _, labels = make_batch()
    ours, theirs = {
        "contrastive": (ContrastiveLoss(), losses.ContrastiveLoss(distance=distances.LpDistance())),
        "triplet": (TripletLoss(), losses.TripletMarginLoss(0.2, distance=distances.LpDistance(power=2))),
        "margin": (MarginLoss(CLASSES), losses.MarginLoss(learn_beta=True, num_classes=CLASSES)),
    }[name]
    miner = miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=2)
    generator = torch.Generator().manual_seed(0)
    compare(
        f"{name}, PML {mining}",
        lambda e: ours(e, labels, generator=generator),
        lambda e: theirs(e, labels, miner(e, labels) if mining == "mined" else None),
        1.0,
    )


OF_PROXIES = {
    "proxy_anchor": (ProxyAnchorLoss, losses.ProxyAnchorLoss),
    "normalised_softmax": (NormalisedSoftmaxLoss, losses.NormalizedSoftmaxLoss),
    "cosface": (CosFaceLoss, losses.CosFaceLoss),
    "arcface": (ArcFaceLoss, losses.ArcFaceLoss),
    "proxy_nca_pp": (ProxyNCAPlusPlusLoss, losses.ProxyNCALoss),
    "soft_triple, both without regulariser": (partial(SoftTripleLoss, tau=0.0), losses.SoftTripleLoss),
}


@pytest.mark.parametrize("classes", [100, 11_318])
@pytest.mark.parametrize("name", OF_PROXIES)
def test_losses_of_proxies(compare, name, classes):
    _, labels = make_batch(classes)
    ours, theirs = (kind(classes, DIMENSION) for kind in OF_PROXIES[name])

    def afresh(loss):
        def call(embeddings):
            loss.zero_grad()
            return loss(embeddings, labels)

        return call

    rounds = 100 if classes == 100 else 20
    compare(f"{name}, {classes:,} classes", afresh(ours), afresh(theirs), 1.0, rounds)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("supcon", SupConLoss(), losses.SupConLoss()),
        ("nt_xent", NTXentLoss(), losses.NTXentLoss()),
        ("circle", CircleLoss(), losses.CircleLoss()),
        ("smooth_ap", SmoothAPLoss(), losses.SmoothAPLoss()),
    ],
)
def test_losses_of_pairs(compare, name, ours, theirs):
    _, labels = make_batch()
    compare(name, lambda e: ours(e, labels), lambda e: theirs(e, labels), 1.0, 20 if name == "smooth_ap" else 100)


def test_distillation(compare):
    """Nothing of PML's compares; one step of its Multi-Similarity loss serves as the yardstick."""
    teacher, labels = make_batch()
    theirs = losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    compare(
        "obdsd, PML's MS",
        lambda e: distillation_loss(e, obdsd_targets(teacher, 1.0, 0.3, 1.0), 1.0),
        lambda e: theirs(e, labels, miner(e, labels)),
        1.0,
    )
