"""What every loss says of a batch that it cannot use: one clear line, or NaN where values are broken."""

import pytest
import torch

from tests.losses.test_loss_properties import (
    CLASSES,
    DIMENSION,
    PAIR_LOSSES,
    PROXY_LOSSES,
    build,
    every_loss,
    every_triplet_loss,
    make_batch,
    run,
    seeded,
)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(name, dtype):
    embeddings, labels = make_batch(size=24)
    labels = labels % 2 if dtype is torch.bool else labels
    value, gradient = run(build(name), embeddings, labels, generator=seeded(0))
    narrow, narrow_gradient = run(build(name), embeddings, labels.to(dtype), generator=seeded(0))
    assert value == narrow
    assert gradient.equal(narrow_gradient)


@every_loss
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["one", "row", "all"])
def test_a_broken_embedding_is_no_loss_of_zero(name, broken, place):
    embeddings, labels = make_batch(size=24)
    labels[3] = labels.max() + 0  # also where the row's class is its own
    rows = {"one": (3, 5), "row": (3,), "all": (...,)}[place]
    embeddings[rows] = broken
    assert build(name)(embeddings, labels, generator=seeded(0)).isnan()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_broken_embedding_without_pairs_is_no_loss_of_zero(name):
    embeddings = torch.full((3, DIMENSION), torch.nan)
    assert build(name)(embeddings, torch.arange(3), generator=seeded(0)).isnan()


@pytest.mark.parametrize("name", ["margin", *PROXY_LOSSES])
@pytest.mark.parametrize("label", [-1, CLASSES, -100])
def test_labels_out_of_range(name, label):
    embeddings, labels = make_batch(size=24)
    labels[5] = label
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, {CLASSES}\)"):
        build(name)(embeddings, labels)


@pytest.mark.parametrize("name", ["proxy_anchor", "arcface", "cosface", "soft_triple"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("an earlier kernel's")])
def test_other_errors_of_the_device_stay_what_they_are(name, error, monkeypatch):
    """A lack of memory must reach the runner, which says what to do."""

    def fail(*_):
        raise error

    loss, batch = build(name), make_batch(size=24)
    monkeypatch.setattr(torch.Tensor, "gather", fail)
    monkeypatch.setattr(torch.Tensor, "scatter_add_", fail)
    with pytest.raises(type(error)) as caught:
        loss(*batch)
    assert caught.value is error


@every_triplet_loss
@pytest.mark.parametrize("row", [-1, 18])
def test_triplets_out_of_range(name, row):
    with pytest.raises(ValueError, match=r"triplets must lie in \[0, 18\)"):
        build(name)(*make_batch(), torch.tensor([[0, 1, row]]))


def other_device(tensor):
    return torch.empty_like(tensor, device="meta")


@every_loss
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, y: (e, [str(label) for label in y.tolist()]), "must be tensors, got Tensor and list"),
        (lambda e, y: (e.numpy(), y), "must be tensors, got ndarray and Tensor"),
        (lambda e, y: (e.to(torch.complex64), y), r"embeddings must be a float tensor \(N, D\) .* got torch.complex64"),
        (lambda e, y: (e.long(), y), r"embeddings must be a float tensor \(N, D\) .* got torch.int64"),
        (lambda e, y: (e, y.to(torch.complex64)), "labels must be an integer tensor .* got torch.complex64"),
        (lambda e, y: (e, y.float()), "labels must be an integer tensor .* got torch.float32"),
        (lambda e, y: (e, y[1:]), r"labels must be an integer tensor \(18,\), one for each embedding, got torch.int64"),
        (lambda e, y: (e[0], y), "embeddings must be a float tensor"),
        (lambda e, y: (e[:0], y[:0]), "embeddings must be a float tensor"),
        (lambda e, y: (e, other_device(y)), "embeddings and labels must be on one device, got cpu and meta"),
    ],
)
def test_bad_batches_are_one_clear_line(name, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(name)(*change(*make_batch()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PROXY_LOSSES)
def test_dimensions_of_the_proxies(name):
    embeddings, labels = make_batch()
    with pytest.raises(ValueError, match=f"embeddings must have {DIMENSION} dimensions, got {DIMENSION - 1}"):
        build(name)(embeddings[:, 1:], labels)


@every_triplet_loss
@pytest.mark.parametrize(
    ("triplets", "message"),
    [([[0, 1, 2]], "got list"), (other_device(torch.zeros(1, 3).long()), "on the embeddings' device cpu, got meta")],
)
def test_triplets_that_are_none(name, triplets, message):
    with pytest.raises(ValueError, match=message):
        build(name)(*make_batch(), triplets)
