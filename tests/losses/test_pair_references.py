"""Softmax-like losses of pairs between a batch and references, such as a memory, in place of the batch itself."""

import pytest
import torch
from pytorch_metric_learning import losses
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize

from dmlbench.losses import CircleLoss, NTXentLoss, SupConLoss
from tests.losses.test_loss_properties import BUILD, CLASSES, DIMENSION, build, make_batch, run

TAKING = ("supcon", "nt_xent", "circle", "circle_batch")
every_loss = pytest.mark.parametrize("name", TAKING)


def references(seed=3, size=40):
    embeddings, labels = make_batch(seed, size)
    return {"references": embeddings, "reference_labels": labels}


@pytest.mark.parametrize("name", ["supcon", "nt_xent", "circle"])
def test_a_batch_that_is_its_own_reference_loses_the_same(name):
    """The diagonal is left out, as more similar than 1 - 1e-5."""
    embeddings, labels = make_batch(size=24)
    leaf = embeddings.clone().requires_grad_()
    value = build(name)(leaf, labels, references=leaf, reference_labels=labels)
    value.backward()
    expected, gradient = run(build(name), embeddings, labels)
    assert expected > 0
    torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(leaf.grad, gradient)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SupConLoss(temperature=0.1, base_temperature=0.1), losses.SupConLoss(temperature=0.1)),
        (NTXentLoss(), losses.NTXentLoss(temperature=0.07)),
        (CircleLoss(), losses.CircleLoss(m=0.4, gamma=80)),
    ],
)
def test_equals_pytorch_metric_learning(ours, theirs):
    vectors, labels = make_batch(size=24)
    others = references(size=60)
    results = []
    for compute in (
        lambda e: ours(e, labels, **others),
        lambda e: theirs(e, labels, ref_emb=others["references"], ref_labels=others["reference_labels"]),
    ):
        leaf = vectors.clone().requires_grad_()
        value = compute(normalize(leaf))
        results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    for mine, its in zip(*results, strict=True):
        assert (mine - its).norm() <= 1e-5 * its.norm()


@every_loss
@pytest.mark.parametrize("label", [0, 1])
def test_references_of_one_class_cost_nothing(name, label):
    """Where all are of the batch's class, or all of another: supcon alone has a loss then, of unequal positives."""
    embeddings, _ = make_batch(size=12)
    others = {"references": -embeddings.roll(1, dims=0), "reference_labels": torch.full((12,), label)}
    value, gradient = run(build(name), embeddings, torch.zeros(12, dtype=torch.int64), **others)
    if name == "supcon" and label == 0:
        assert value > 0
    else:
        assert value == 0
        assert (gradient == 0).all()
    assert gradient.isfinite().all()


@every_loss
def test_a_batch_that_finds_only_itself_costs_nothing(name):
    embeddings, labels = make_batch(size=1)
    value, gradient = run(build(name), embeddings, labels, references=embeddings, reference_labels=labels)
    assert value == 0
    assert (gradient == 0).all()


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
    embeddings[3, 1] = torch.nan
    assert build(name)(embeddings, labels, **references()).isnan()


@every_loss
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": None}, "references and reference_labels are given together"),
        ({"reference_labels": torch.zeros(3).long()}, r"references: labels must be an integer tensor \(40,\)"),
        ({"references": torch.randn(40, 3)}, f"references must have the batch's {DIMENSION} dimensions on cpu, got 3"),
    ],
)
def test_wrong_references_are_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        build(name)(*make_batch(), **references() | change)
