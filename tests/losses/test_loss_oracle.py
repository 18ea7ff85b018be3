"""A second oracle: pytorch-metric-learning, under the settings that make its definitions ours.

Both start from unnormalised vectors, so the gradients agree although its losses normalise once more.
"""

import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
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
from dmlbench.losses.mining import distance_weighted_triplets

SEEDS = (0, 1, 2)


def make_batch(seed, size=40, classes=10, dimension=16):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    centres = torch.randn(classes, dimension, generator=generator)
    vectors = centres[labels] + torch.randn(size, dimension, generator=generator)
    triplets, valid = distance_weighted_triplets(normalize(vectors), labels, generator)
    return vectors, labels, triplets[valid]


def value_and_gradients(compute, vectors, *parameters):
    leaf = vectors.clone().requires_grad_()
    value = compute(normalize(leaf))
    return value.detach(), *torch.autograd.grad(value, (leaf, *parameters))


def assert_same(ours, oracle):
    for mine, its in zip(ours, oracle, strict=True):
        torch.testing.assert_close(mine, its, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_multi_similarity(seed):
    vectors, labels, _ = make_batch(seed)
    pairs = miners.MultiSimilarityMiner(epsilon=0.1)(vectors, labels)
    active = pairs[0].unique()
    assert active.equal(pairs[2].unique())
    theirs = losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
    scale = len(labels) / len(active)  # it divides by the batch, we by the anchors that count
    assert_same(
        value_and_gradients(lambda e: MultiSimilarityLoss()(e, labels), vectors),
        value_and_gradients(lambda e: scale * theirs(e, labels, pairs), vectors),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_triplet(seed):
    vectors, labels, triplets = make_batch(seed)
    theirs = losses.TripletMarginLoss(
        margin=0.2, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer()
    )
    assert_same(
        value_and_gradients(lambda e: TripletLoss()(e, labels, triplets), vectors),
        value_and_gradients(lambda e: theirs(e, labels, triplets.unbind(1)), vectors),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_contrastive(seed):
    vectors, labels, triplets = make_batch(seed)
    theirs = losses.ContrastiveLoss(
        pos_margin=0.3, neg_margin=1.1, distance=distances.LpDistance(), reducer=reducers.MeanReducer()
    )
    ours = ContrastiveLoss(positive_margin=0.3, negative_margin=1.1)
    assert_same(
        value_and_gradients(lambda e: ours(e, labels, triplets), vectors),
        value_and_gradients(lambda e: theirs(e, labels, triplets.unbind(1)), vectors),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_margin(seed):
    vectors, labels, triplets = make_batch(seed)
    ours = MarginLoss(10)
    ours.beta.data.copy_(torch.linspace(0.9, 1.3, 10))
    theirs = losses.MarginLoss(margin=0.2, num_classes=10, learn_beta=True)
    theirs.beta.data.copy_(ours.beta.data)

    anchor, positive, negative = normalize(vectors)[triplets].unbind(1)
    boundary = ours.beta.detach()[labels[triplets[:, 0]]]
    inside = (anchor - positive).norm(dim=1) > boundary - 0.2
    outside = (anchor - negative).norm(dim=1) < boundary + 0.2
    # It divides by the active terms, we by the triplets with an active term.
    scale = (inside.sum() + outside.sum()) / (inside | outside).sum()
    assert_same(
        value_and_gradients(lambda e: ours(e, labels, triplets), vectors, ours.beta),
        value_and_gradients(lambda e: scale * theirs(e, labels, triplets.unbind(1)), vectors, theirs.beta),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_proxy_anchor(seed):
    vectors, labels, _ = make_batch(seed)
    torch.manual_seed(seed)
    ours, theirs = ProxyAnchorLoss(25, 16), losses.ProxyAnchorLoss(25, 16)
    theirs.proxies.data.copy_(ours.proxies.data)
    assert_same(
        value_and_gradients(lambda e: ours(e, labels), vectors, ours.proxies),
        value_and_gradients(lambda e: theirs(e, labels), vectors, theirs.proxies),
    )


OF_PROXIES = {
    "normalised_softmax": (NormalisedSoftmaxLoss(25, 16), losses.NormalizedSoftmaxLoss(25, 16)),
    "cosface": (CosFaceLoss(25, 16), losses.CosFaceLoss(25, 16)),
    "arcface": (ArcFaceLoss(25, 16, margin=1.5, scale=64), losses.ArcFaceLoss(25, 16, margin=math.degrees(1.5))),
    "proxy_nca_pp": (ProxyNCAPlusPlusLoss(25, 16), losses.ProxyNCALoss(25, 16, softmax_scale=9)),
    "soft_triple": (SoftTripleLoss(25, 16, tau=0), losses.SoftTripleLoss(25, 16)),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", OF_PROXIES)
def test_losses_of_proxies(name, seed):
    vectors, labels, _ = make_batch(seed)
    ours, theirs = OF_PROXIES[name]
    (mine,), (its,) = ours.parameters(), theirs.parameters()
    torch.manual_seed(seed)
    mine.data.normal_()
    mine.data[labels[0]] = -vectors[0]  # an angle beyond pi with the margin
    transposed = its.shape != mine.shape
    its.data.copy_(mine.data.T if transposed else mine.data)
    value, gradient, of_its = value_and_gradients(lambda e: theirs(e, labels), vectors, its)
    assert_same(
        value_and_gradients(lambda e: ours(e, labels), vectors, mine),
        (value, gradient, of_its.T if transposed else of_its),
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SupConLoss(temperature=0.1, base_temperature=0.1), losses.SupConLoss(temperature=0.1)),
        (NTXentLoss(), losses.NTXentLoss(temperature=0.07)),
        (NTXentLoss(temperature=0.02), losses.NTXentLoss(temperature=0.02)),
        (CircleLoss(), losses.CircleLoss(m=0.4, gamma=80)),
    ],
)
def test_losses_of_pairs(ours, theirs, seed):
    vectors, labels, _ = make_batch(seed)
    alone = (labels[:, None] == labels).sum(dim=1) == 1
    # Its mean is over the anchors that have a positive, SupCon's official one over all.
    scale = (~alone).sum() / len(labels) if isinstance(ours, SupConLoss) else 1
    assert_same(
        value_and_gradients(lambda e: ours(e, labels), vectors),
        value_and_gradients(lambda e: scale * theirs(e, labels), vectors),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_smooth_ap(seed):
    # It takes classes of one size, one after the other, and mistakes that size for their number: so the two are equal.
    labels = torch.arange(6).repeat_interleave(6)
    vectors = torch.randn(36, 16, generator=torch.Generator().manual_seed(seed))
    theirs = losses.SmoothAPLoss(temperature=0.01)
    assert_same(
        value_and_gradients(lambda e: SmoothAPLoss()(e, labels), vectors),
        value_and_gradients(lambda e: theirs(e, labels), vectors),
    )
