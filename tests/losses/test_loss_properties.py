"""What holds for every loss, whatever its definition."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize

from dmlbench.losses import (
    ArcFaceLoss,
    CircleLoss,
    ContrastiveLoss,
    CosFaceLoss,
    CosineContrastiveLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NormalisedSoftmaxLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    ProxyNCAPlusPlusLoss,
    RecallAtKLoss,
    SmoothAPLoss,
    SoftTripleLoss,
    SpherePairLoss,
    SupConLoss,
    TripletLoss,
)

CLASSES, DIMENSION = 6, 64
TRIPLET_LOSSES = ("contrastive", "triplet", "margin", "semihard")
BUILD = {
    "contrastive": lambda: ContrastiveLoss(negative_margin=1.4),  # so that distant negatives count
    "triplet": TripletLoss,
    "semihard": lambda: TripletLoss(mining="semihard"),
    "margin": lambda: MarginLoss(CLASSES),
    "multi_similarity": MultiSimilarityLoss,
    "cosine_contrastive": CosineContrastiveLoss,
    "proxy_anchor": lambda: ProxyAnchorLoss(CLASSES, DIMENSION),
    "normalised_softmax": lambda: NormalisedSoftmaxLoss(CLASSES, DIMENSION),
    "cosface": lambda: CosFaceLoss(CLASSES, DIMENSION),
    "arcface": lambda: ArcFaceLoss(CLASSES, DIMENSION),
    "proxy_nca_pp": lambda: ProxyNCAPlusPlusLoss(CLASSES, DIMENSION),
    "soft_triple": lambda: SoftTripleLoss(CLASSES, DIMENSION, centres_per_class=3),
    "supcon": SupConLoss,
    "nt_xent": NTXentLoss,
    "circle": CircleLoss,
    "circle_batch": lambda: CircleLoss(over="batch"),
    "smooth_ap": SmoothAPLoss,
    "recall_at_k": RecallAtKLoss,
    "sphere_pair": SpherePairLoss,
}
PROXY_LOSSES = ("proxy_anchor", "normalised_softmax", "cosface", "arcface", "proxy_nca_pp", "soft_triple")
PAIR_LOSSES = tuple(name for name in BUILD if name not in PROXY_LOSSES)
every_loss = pytest.mark.parametrize("name", BUILD)
every_triplet_loss = pytest.mark.parametrize("name", TRIPLET_LOSSES)
few_examples = settings(max_examples=15)


def build(name):
    torch.manual_seed(0)
    return BUILD[name]()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_batch(seed=0, size=18):
    generator = seeded(seed)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    centres = torch.randn(CLASSES, DIMENSION, generator=generator)
    noise = torch.randn(size, DIMENSION, generator=generator)
    return normalize(centres[labels] + 1.5 * noise), labels


def make_triplets(labels, seed=0, count=30):
    """Pick valid triplets the slow way, independent of the miners."""
    same = labels[:, None] == labels
    pairs = (same & ~torch.eye(len(labels), dtype=torch.bool)).nonzero()
    every = [(a, p, n) for a, p in pairs.tolist() for n in (~same[a]).nonzero().flatten().tolist()]
    order = torch.randperm(len(every), generator=seeded(seed))[:count]
    return torch.tensor([every[i] for i in order], dtype=torch.int64).reshape(-1, 3)


def run(loss, embeddings, labels, *args, **kwargs):
    """Return the value and the gradient at the embeddings."""
    leaf = embeddings.detach().clone().requires_grad_()
    value = loss(leaf, labels, *args, **kwargs)
    value.backward()
    return value.detach(), leaf.grad


def test_every_loss_takes_a_generator():
    for make in BUILD.values():
        assert inspect.signature(make().forward).parameters["generator"].default is None


@every_loss
@given(seed=st.integers(0, 10_000), size=st.integers(8, 24))
@few_examples
def test_order_of_the_batch_does_not_matter(name, seed, size):
    embeddings, labels = make_batch(seed, size)
    order = torch.randperm(size, generator=seeded(seed + 1))
    if name == "sphere_pair":  # the order within a class says which negatives a pair has, as officially
        order[labels[order].argsort(stable=True)] = labels.argsort(stable=True)
    loss, given, moved = build(name), [], []
    if name in TRIPLET_LOSSES:
        triplets = make_triplets(labels, seed)
        given, moved = [triplets], [order.argsort()[triplets]]
    embeddings = embeddings.double()  # a sharp loss scales the rounding of a sum in another order
    value, gradient = run(loss, embeddings, labels, *given)
    moved_value, moved_gradient = run(loss, embeddings[order], labels[order], *moved)
    torch.testing.assert_close(moved_value, value)
    torch.testing.assert_close(moved_gradient, gradient[order], rtol=1e-6, atol=1e-9)


@every_loss
@given(
    seed=st.integers(0, 10_000),
    labels=st.sampled_from([[0] * 6, [0, 1, 2, 3, 4, 5], [3]]),
)
@few_examples
def test_batch_without_a_valid_pair(name, seed, labels):
    labels = torch.tensor(labels)
    embeddings = normalize(torch.randn(len(labels), DIMENSION, generator=seeded(seed)))
    value, gradient = run(build(name), embeddings, labels, generator=seeded(seed))
    if name in (*PROXY_LOSSES, "cosine_contrastive"):  # those have pairs with proxies, this one single pairs
        assert value.isfinite()
        assert gradient.isfinite().all()
    elif name == "supcon" and len(labels) > labels.max() + 3:  # positives compete with each other, also without others
        assert value > 0
        assert gradient.isfinite().all()
    else:
        assert value == 0
        assert (gradient == 0).all()


@every_triplet_loss
def test_no_triplets_given(name):
    value, gradient = run(build(name), *make_batch(), triplets=torch.empty(0, 3, dtype=torch.int64))
    assert value == 0
    assert (gradient == 0).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computes_in_float32_under_autocast(name, dtype):
    embeddings, labels = make_batch(size=200)  # so many draws that a coarser mining would make others
    loss, half = build(name), embeddings.to(dtype)
    leaf = half.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(leaf, labels, generator=seeded(3))
    value.backward()
    wide_value, wide_gradient = run(loss, half.float(), labels, generator=seeded(3))
    assert value.dtype == torch.float32
    assert leaf.grad.dtype == dtype
    assert value == wide_value
    assert leaf.grad.equal(wide_gradient.to(dtype))
    assert leaf.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("kept", [1, 4])
def test_gradient_is_finite_at_duplicates(name, kept):
    embeddings, labels = make_batch(size=24)
    embeddings = embeddings[torch.arange(24) % kept]
    value, gradient = run(build(name), embeddings, labels, generator=seeded(0))
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_gradient_is_finite_at_antipodes(name):
    embeddings, labels = make_batch(size=12)
    embeddings = torch.cat([embeddings, -embeddings])
    value, gradient = run(build(name), embeddings, torch.cat([labels, labels.roll(1)]), generator=seeded(0))
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in BUILD if "circle" not in name])
def test_gradient_is_the_derivative(name):
    embeddings, labels = make_batch(seed=1)
    loss = build(name).double()
    given = [make_triplets(labels)] if name in TRIPLET_LOSSES else []
    leaf = embeddings.double().requires_grad_()
    leaves = (leaf, *loss.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: loss(x, labels, *given), leaves, fast_mode=True)


@pytest.mark.parametrize("over", ["anchor", "batch"])
def test_circle_s_weights_get_no_gradient(over):
    embeddings, labels = make_batch(seed=1)
    value, gradient = run(CircleLoss(m=0.3, gamma=10, over=over), embeddings.double(), labels)
    leaf, rows = embeddings.double().requires_grad_(), range(len(labels))
    anchors = [[(i, j) for j in rows if j != i] for i in rows]
    losses = []
    for pairs in anchors if over == "anchor" else [[(i, j) for i in rows for j in rows if i < j]]:
        totals = {True: 0.0, False: 0.0}
        for i, j in pairs:
            s, same = leaf[i] @ leaf[j], bool(labels[i] == labels[j])
            held = s.item()
            logit = -10 * max(1.3 - held, 0) * (s - 0.7) if same else 10 * max(held + 0.3, 0) * (s - 0.3)
            totals[same] = totals[same] + logit.exp()
        if isinstance(totals[True], torch.Tensor):  # an anchor alone in its class has no loss
            losses.append((1 + totals[True] * totals[False]).log())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])


@every_triplet_loss
def test_mining_draws_from_the_generator_alone(name):
    embeddings, labels = make_batch(size=24)
    loss, state = build(name), torch.get_rng_state()
    values = [run(loss, embeddings, labels, generator=seeded(seed))[0].item() for seed in (5, 5, 6)]
    assert values[0] == values[1] != values[2]
    assert torch.get_rng_state().equal(state)


@every_loss
def test_nothing_depends_on_the_data_s_values(name):
    """Fake tensors have no values: reading one (a host synchronisation) or a shape made of them raises."""
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    with mode:
        loss = BUILD[name]()
        embeddings = torch.randn(16, DIMENSION, requires_grad=True)
        loss(embeddings, torch.randint(CLASSES, (16,))).backward()
    assert embeddings.grad.shape == (16, DIMENSION)


@pytest.mark.parametrize("name", [*TRIPLET_LOSSES, "multi_similarity", "cosine_contrastive"])
def test_satisfied_batch_leaves_the_mined_losses_at_zero(name):
    labels = torch.arange(CLASSES).repeat(3)
    value, gradient = run(build(name), torch.eye(CLASSES, DIMENSION)[labels], labels, generator=seeded(0))
    assert value == pytest.approx(0, abs=1e-5)  # the contrastive distance keeps an epsilon of 1e-6 per dimension
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("build_wrong", "message"),
    [
        (
            lambda: ContrastiveLoss(positive_margin=-0.1),
            "positive_margin must be a finite number >= 0, got -0.1",
        ),
        (lambda: ContrastiveLoss(negative_margin=0), "negative_margin must be a finite number > 0, got 0"),
        (lambda: ContrastiveLoss(mining="semihard"), "mining must be one of 'distance', got 'semihard'"),
        (lambda: TripletLoss(margin=float("nan")), "margin must be a finite number > 0, got nan"),
        (lambda: TripletLoss(mining="hard"), "mining must be one of 'distance', 'semihard', got 'hard'"),
        (lambda: MarginLoss(0), "num_classes must be a whole number > 0, got 0"),
        (lambda: MarginLoss(3, beta=-1), "beta must be a finite number > 0, got -1"),
        (lambda: MultiSimilarityLoss(alpha=0), "alpha must be a finite number > 0, got 0"),
        (lambda: CosineContrastiveLoss(margin=1), r"margin must lie in \[0, 1\), got 1"),
        (lambda: MultiSimilarityLoss(epsilon=-1), "epsilon must be a finite number >= 0, got -1"),
        (lambda: ProxyAnchorLoss(3, 0), "embedding_dim must be a whole number > 0, got 0"),
        (lambda: ProxyAnchorLoss(3, 4, alpha=80), r"alpha \* \(1 \+ delta\) must be at most 80, got 88"),
        (lambda: ProxyAnchorLoss(3, 4, delta=-0.1), "delta must be a finite number >= 0, got -0.1"),
        (lambda: NormalisedSoftmaxLoss(0, 4), "num_classes must be a whole number > 0, got 0"),
        (lambda: NormalisedSoftmaxLoss(3, 4, temperature=0), "temperature must be a finite number > 0, got 0"),
        (lambda: CosFaceLoss(3, 4, margin=-0.1), "margin must be a finite number >= 0, got -0.1"),
        (lambda: CosFaceLoss(3, 4, scale=0), "scale must be a finite number > 0, got 0"),
        (lambda: ArcFaceLoss(3, 4, margin=28.6), "margin is in radians and must be below 3.14, got 28.6"),
        (lambda: ProxyNCAPlusPlusLoss(3, 4, scale=-3), "scale must be a finite number > 0, got -3"),
        (lambda: SoftTripleLoss(3, 4, centres_per_class=0), "centres_per_class must be a whole number > 0, got 0"),
        (lambda: SoftTripleLoss(3, 4, gamma=0), "gamma must be a finite number > 0, got 0"),
        (lambda: SoftTripleLoss(3, 4, tau=-1), "tau must be a finite number >= 0, got -1"),
        (lambda: SupConLoss(temperature=-1), "temperature must be a finite number > 0, got -1"),
        (lambda: NTXentLoss(temperature=float("inf")), "temperature must be a finite number > 0, got inf"),
        (lambda: CircleLoss(over="class"), "over must be one of 'anchor', 'batch', got 'class'"),
        (lambda: CircleLoss(gamma=0), "gamma must be a finite number > 0, got 0"),
        (lambda: SmoothAPLoss(temperature=0), "temperature must be a finite number > 0, got 0"),
        (lambda: RecallAtKLoss(ks="1,,2"), "ks must be whole numbers above 0, with commas, got '1,,2'"),
        (lambda: RecallAtKLoss(k_temperature=0), "k_temperature must be a finite number > 0, got 0"),
        (lambda: SpherePairLoss(temperature=0.01), "temperature must be at least 0.025, got 0.01"),
    ],
)
def test_constructor_names_the_valid_values(build_wrong, message):
    with pytest.raises(ValueError, match=message):
        build_wrong()


@every_loss
def test_wrong_batches_are_refused(name):
    loss, (embeddings, labels) = build(name), make_batch()
    for wrong in (embeddings[0], embeddings[:0], embeddings.long()):
        with pytest.raises(ValueError, match=r"embeddings must be a float tensor \(N, D\)"):
            loss(wrong, labels)
    for wrong in (labels[1:], labels[:, None], labels.float()):
        with pytest.raises(ValueError, match=r"labels must be an integer tensor \(18,\)"):
            loss(embeddings, wrong)


@every_triplet_loss
@pytest.mark.parametrize("wrong", [torch.zeros(4, 2).long(), torch.zeros(3).long(), torch.zeros(4, 3)])
def test_wrong_triplets_are_refused(name, wrong):
    with pytest.raises(ValueError, match=r"triplets must be an int64 tensor \(n, 3\)"):
        build(name)(*make_batch(), triplets=wrong)


def test_proxy_anchor_stays_finite_at_its_sharpest():
    loss = ProxyAnchorLoss(CLASSES, DIMENSION, alpha=72.7)
    loss.proxies.data[:] = torch.eye(CLASSES, DIMENSION)
    labels = torch.arange(CLASSES).repeat_interleave(4)
    for embeddings in (torch.eye(CLASSES, DIMENSION)[labels.roll(4)], -torch.eye(CLASSES, DIMENSION)[labels]):
        value, gradient = run(loss, embeddings, labels)
        assert value.isfinite()
        assert gradient.isfinite().all()


SHARP = {
    "normalised_softmax": lambda: NormalisedSoftmaxLoss(CLASSES, DIMENSION, temperature=1e-3),
    "cosface": lambda: CosFaceLoss(CLASSES, DIMENSION, margin=1.0, scale=500),
    "arcface": lambda: ArcFaceLoss(CLASSES, DIMENSION, margin=3.0, scale=500),
    "proxy_nca_pp": lambda: ProxyNCAPlusPlusLoss(CLASSES, DIMENSION, scale=20),
    "soft_triple": lambda: SoftTripleLoss(CLASSES, DIMENSION, centres_per_class=2, scale=500, gamma=1e-3),
    "supcon": lambda: SupConLoss(temperature=1e-3),
    "nt_xent": lambda: NTXentLoss(temperature=2e-4),  # the smallest that is published
    "circle": lambda: CircleLoss(gamma=5000),
    "circle_batch": lambda: CircleLoss(gamma=5000, over="batch"),
    "smooth_ap": lambda: SmoothAPLoss(temperature=1e-4),
    "recall_at_k": lambda: RecallAtKLoss(temperature=1e-4, k_temperature=1e-2),
    "sphere_pair": lambda: SpherePairLoss(temperature=0.025),
}


@pytest.mark.parametrize("name", SHARP)
@pytest.mark.parametrize("worst", [True, False])
def test_sharpest_settings_stay_finite(name, worst):
    loss = SHARP[name]()
    for parameter in loss.parameters():  # each class's proxy, or its two centres, is a vector of its own
        parameter.data[:] = torch.eye(CLASSES, DIMENSION).repeat_interleave(len(parameter) // CLASSES, dim=0)
    labels = torch.arange(CLASSES).repeat_interleave(4)
    # At worst half of a class coincides with another class, and all are opposite to a proxy.
    embeddings = -torch.eye(CLASSES, DIMENSION)[labels.roll(2)] if worst else torch.eye(CLASSES, DIMENSION)[labels]
    value, gradient = run(loss, embeddings, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()
    for parameter in loss.parameters():
        assert parameter.grad.isfinite().all()


def test_soft_triple_of_one_centre_without_margin_is_a_normalised_softmax():
    softmax = NormalisedSoftmaxLoss(CLASSES, DIMENSION)
    triple = SoftTripleLoss(CLASSES, DIMENSION, centres_per_class=1, margin=0)
    triple.centres.data.copy_(softmax.proxies.data)
    batch = make_batch()
    for ours, theirs in zip(run(triple, *batch), run(softmax, *batch), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_perfect_batch_has_an_average_precision_of_one_and_the_query_takes_a_rank_of_recall():
    labels = torch.arange(CLASSES).repeat(2)
    embeddings = torch.eye(CLASSES, DIMENSION)[labels]
    assert SmoothAPLoss()(embeddings, labels) == pytest.approx(0, abs=1e-6)
    # The query and its duplicate tie, so the positive's rank is 1.5 and not 1.
    expected = 1 - torch.tensor([k - 1.5 for k in (1, 4)]).sigmoid().mean()
    torch.testing.assert_close(RecallAtKLoss(ks="1,4")(embeddings, labels), expected)


def test_learned_parameters():
    assert MarginLoss(7, beta=1.1).beta.tolist() == pytest.approx([1.1] * 7)
    torch.manual_seed(0)
    proxies = ProxyAnchorLoss(500, 64).proxies
    assert proxies.shape == (500, 64)
    assert proxies.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)  # Kaiming: fan-out is the classes
