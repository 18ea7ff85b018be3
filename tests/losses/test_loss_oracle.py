"""A second oracle: pytorch-metric-learning, under the settings that make its definitions ours.

Both start from unnormalised vectors, so the gradients agree although its losses normalise once more.
"""

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch.nn.functional import normalize

from dmlbench.losses import ContrastiveLoss, MarginLoss, MultiSimilarityLoss, ProxyAnchorLoss, TripletLoss
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
