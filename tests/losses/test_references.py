"""Losses of a batch with references, such as a memory, in place of itself."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dmlbench.losses.batch import References
from dmlbench.losses.mining import distance_weighted_triplets, semihard_triplets
from tests.losses.test_loss_properties import (
    BUILD,
    CLASSES,
    DIMENSION,
    TRIPLET_LOSSES,
    build,
    make_batch,
    make_triplets,
    run,
    seeded,
)

TAKING = (*TRIPLET_LOSSES, "multi_similarity", "cosine_contrastive")
every_loss = pytest.mark.parametrize("name", TAKING)


def to_itself(loss, embeddings, labels, *given):
    leaf = embeddings.clone().requires_grad_()
    value = loss(leaf, labels, *given, references=leaf, reference_labels=labels)
    value.backward()
    return value.detach(), leaf.grad


@every_loss
def test_a_batch_that_is_its_own_reference_loses_the_same(name):
    """The diagonal is left out, as more similar than 1 - 1e-5."""
    embeddings, labels = make_batch(size=24)
    given = [make_triplets(labels)] if name in TRIPLET_LOSSES else []
    for actual, expected in zip(
        to_itself(build(name), embeddings, labels, *given), run(build(name), embeddings, labels, *given), strict=True
    ):
        torch.testing.assert_close(actual, expected)
    assert run(build(name), embeddings, labels, *given)[0] > 0


@pytest.mark.parametrize("name", ["multi_similarity", "cosine_contrastive"])
def test_the_batchs_own_pairs_do_not_count(name):
    """An anchor's gradient is that of a batch of it alone, but for what the sum is divided by."""
    embeddings, labels = make_batch(size=24)
    others, their_labels = make_batch(seed=3, size=40)
    given = {"references": others, "reference_labels": their_labels}
    value, gradients = run(build(name), embeddings, labels, **given)
    assert value > 0
    for row, gradient in enumerate(gradients):
        (own,) = run(build(name), embeddings[row : row + 1], labels[row : row + 1], **given)[1]
        torch.testing.assert_close(gradient * own.norm(), own * gradient.norm())


@every_loss
def test_gradients_reach_references_that_want_them_and_are_derivatives(name):
    embeddings, labels = make_batch(seed=1, size=12)
    others, their_labels = make_batch(seed=4, size=9)
    triplets = [[a, p, n] for a in range(12) for p in range(9) for n in range(9)
                if labels[a] == their_labels[p] != their_labels[n]]  # fmt: skip
    given = {"triplets": torch.tensor(triplets)} if name in TRIPLET_LOSSES else {}
    loss = build(name).double()
    leaves = embeddings.double().requires_grad_(), others.double().requires_grad_()
    compute = lambda x, y: loss(x, labels, references=y, reference_labels=their_labels, **given)  # noqa: E731
    assert torch.autograd.gradcheck(compute, leaves, fast_mode=True)


@every_loss
def test_no_pair_costs_nothing(name):
    """References of the batch's class alone; where negatives count without positives, none above the margin."""
    embeddings, other = make_batch(size=12)[0], name == "cosine_contrastive"
    labels, their_labels = torch.zeros(12, dtype=torch.int64), torch.full((12,), int(other))
    value, gradient = run(
        build(name), embeddings, labels, generator=seeded(0), references=-embeddings[:1].repeat(12, 1) if other
        else embeddings.flip(0), reference_labels=their_labels,
    )  # fmt: skip
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("mine", [distance_weighted_triplets, lambda *a, **k: semihard_triplets(*a[:2], 0.2, **k)])
def test_mining_draws_positives_and_negatives_from_the_references(mine):
    embeddings, labels = make_batch(size=24)
    more, their_labels = make_batch(seed=5, size=60)
    others = References(torch.cat([embeddings, more]), torch.cat([labels, their_labels]))
    drawn = torch.stack([mine(embeddings, labels, generator=seeded(seed), references=others)[0] for seed in range(30)])
    valid = mine(embeddings, labels, generator=seeded(0), references=others)[1]
    assert valid.all()
    anchor, positive, negative = drawn.unbind(2)
    assert (anchor == torch.arange(24)).all()
    assert (others.labels[positive] == labels).all()
    assert (others.labels[negative] != labels).all()
    assert (positive != anchor).all()  # the first 24 references are the batch itself
    assert positive.max() >= 24
    assert negative.max() >= 24


@every_loss
def test_nothing_depends_on_the_data_s_values(name):
    with FakeTensorMode(allow_non_fake_inputs=False):
        loss = BUILD[name]()
        embeddings = torch.randn(16, DIMENSION, requires_grad=True)
        labels, their_labels = torch.randint(CLASSES, (16,)), torch.randint(CLASSES, (50,))
        loss(embeddings, labels, references=torch.randn(50, DIMENSION), reference_labels=their_labels).backward()
    assert embeddings.grad.shape == (16, DIMENSION)


@every_loss
def test_a_broken_embedding_shows(name):
    embeddings, labels = make_batch()
    others, their_labels = make_batch(seed=3)
    embeddings[3, 1] = torch.nan
    assert build(name)(embeddings, labels, references=others, reference_labels=their_labels).isnan()


@every_loss
def test_half_precision_is_computed_in_float32(name):
    embeddings, labels = make_batch()
    others, their_labels = make_batch(seed=3)
    half = embeddings.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = build(name)(half, labels, generator=seeded(0), references=others, reference_labels=their_labels)
    wide = build(name)(half.float(), labels, generator=seeded(0), references=others, reference_labels=their_labels)
    assert value == wide
    assert value.dtype == torch.float32


@every_loss
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, y: {"references": e}, "references and reference_labels are given together"),
        (lambda e, y: {"reference_labels": y}, "references and reference_labels are given together"),
        (
            lambda e, y: {"references": e[:, 1:], "reference_labels": y},
            "the batch's 64 dimensions on cpu, got 63 on cpu",
        ),
        (lambda e, y: {"references": e, "reference_labels": y[1:]}, r"references: labels must be .* \(18,\)"),
        (lambda e, y: {"references": e.long(), "reference_labels": y}, "references: embeddings must be a float tensor"),
    ],
)
def test_bad_references_are_one_clear_line(name, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(name)(*make_batch(), **change(*make_batch(seed=1)))
    assert "\n" not in str(caught.value)


def test_references_are_used_as_they_are():
    """A memory of several entries of one image counts each of them."""
    embeddings, labels = make_batch()
    others, their_labels = make_batch(seed=3)
    once = build("cosine_contrastive")(embeddings, labels, references=others, reference_labels=their_labels)
    twice = build("cosine_contrastive")(
        embeddings, labels, references=others.repeat(2, 1), reference_labels=their_labels.repeat(2)
    )
    torch.testing.assert_close(twice, 2 * once)
