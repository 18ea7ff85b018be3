"""Each comparison with float64 passes, and fails where the device's float32 is made wrong."""

from functools import wraps

import pytest
import torch

from dmlbench.evaluation import clustering_metrics, geometry_metrics, retrieval_metrics
from dmlbench.evaluation.inputs import unit_embeddings
from dmlbench.losses import MarginLoss, MultiSimilarityLoss, ProxyAnchorLoss
from dmlbench.losses.mining import distance_weighted_probabilities, distance_weighted_triplets, semihard_triplets
from dmlbench.modifiers import angular_loss, distillation_loss, neighbourhood_loss, obdsd_targets, psd_targets
from dmlbench.modifiers import relational_loss as relational
from dmlbench.selftest import agreement
from dmlbench.specs.registry import Registry
from tests.selftest.conftest import broken

OFF = 1e-3


def in_float32(forward, change):
    """A loss's forward that is changed where the embeddings are float32: the device's, not the reference's."""

    @wraps(forward)  # what a loss is given goes by the names of its parameters
    def changed(self, embeddings, *args, **kwargs):
        value = forward(self, embeddings, *args, **kwargs)
        return change(value, embeddings) if embeddings.dtype == torch.float32 else value

    return changed


def test_every_registered_loss_is_compared(check):
    record = check("losses")
    assert not broken(record)
    names = {figure.name for figure in record.figures}
    assert {*Registry().bases()} | {f"{name}, gradient" for name in Registry().bases()} <= names


@pytest.mark.parametrize(
    ("loss", "name"), [(MultiSimilarityLoss, "ms"), (MarginLoss, "margin"), (ProxyAnchorLoss, "proxyanchor")]
)
def test_a_loss_that_is_off(check, monkeypatch, loss, name):
    monkeypatch.setattr(loss, "forward", in_float32(loss.forward, lambda value, _: value + OFF))
    assert broken(check("losses")) == {name}


def test_a_gradient_that_is_off(check, monkeypatch):
    def tilted(value, embeddings):
        return value + OFF * (embeddings - embeddings.detach()).sum()

    monkeypatch.setattr(MultiSimilarityLoss, "forward", in_float32(MultiSimilarityLoss.forward, tilted))
    assert broken(check("losses")) == {"ms, gradient"}


def test_the_gradient_of_what_a_loss_learns(check, monkeypatch):
    @wraps(MarginLoss.forward)
    def forward(self, embeddings, *args, **kwargs):
        value = original(self, embeddings, *args, **kwargs)
        extra = (self.beta - self.beta.detach()).sum() * OFF
        return value + extra if embeddings.dtype == torch.float32 else value

    original = MarginLoss.forward
    monkeypatch.setattr(MarginLoss, "forward", forward)
    assert broken(check("losses")) == {"margin, gradient"}


def test_a_loss_that_is_not_finite(check, monkeypatch):
    monkeypatch.setattr(
        MultiSimilarityLoss, "forward", in_float32(MultiSimilarityLoss.forward, lambda value, _: value * torch.nan)
    )
    assert broken(check("losses")) == {"ms", "ms, gradient"}


def test_mining_that_is_off(check, monkeypatch):
    def probabilities(embeddings, labels):
        found = distance_weighted_probabilities(embeddings, labels)
        return found * (1 + OFF) if embeddings.dtype == torch.float32 else found

    def swapped(*args, **kwargs):
        triplets, valid = semihard_triplets(*args, **kwargs)
        return triplets[:, [0, 2, 1]], valid

    monkeypatch.setattr(agreement, "distance_weighted_probabilities", probabilities)
    monkeypatch.setattr(agreement, "semihard_triplets", swapped)
    assert broken(check("losses")) == {
        "probabilities of distance-weighted mining",
        "semi-hard triplets of wrong classes",
    }


def test_triplets_that_are_not_drawn(check, monkeypatch):
    def few(*args, **kwargs):
        triplets, valid = distance_weighted_triplets(*args, **kwargs)
        valid[0] = False
        return triplets, valid

    monkeypatch.setattr(agreement, "distance_weighted_triplets", few)
    assert broken(check("losses")) == {"embeddings without a distance-weighted triplet"}


@pytest.mark.parametrize(
    ("miner", "name"), [(distance_weighted_triplets, "distance-weighted"), (semihard_triplets, "semi-hard")]
)
def test_mining_that_draws_nothing(check, monkeypatch, miner, name):
    def nothing(embeddings, *args, **kwargs):
        triplets, valid = miner(embeddings, *args, **kwargs)
        return (triplets[:0], valid[:0]) if embeddings.dtype == torch.float32 else (triplets, valid)

    monkeypatch.setattr(agreement, miner.__name__, nothing)
    assert broken(check("losses")) == {f"embeddings without a {name} triplet"}


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (psd_targets, {"psd_targets"}),
        (obdsd_targets, {"obdsd_targets, cub", "obdsd_targets, cars", "obdsd_targets, sop"}),
        (distillation_loss, {"distillation_loss", "distillation_loss, gradient"}),
        (relational, {"relational_loss", "relational_loss, gradient"}),
        (angular_loss, {"angular_loss", "angular_loss, gradient"}),
        (neighbourhood_loss, {"neighbourhood_loss", "neighbourhood_loss, gradient"}),
    ],
)
def test_a_modifier_that_is_off(check, monkeypatch, function, names):
    def off(first, *args, **kwargs):
        value = function(first, *args, **kwargs)
        return value * (1 + OFF) if first.dtype == torch.float32 else value

    assert not broken(check("modifiers"))
    monkeypatch.setattr(agreement, function.__name__, off)
    assert broken(check("modifiers")) == names


def test_metrics_that_are_off(check, monkeypatch):
    assert not broken(check("metrics"))

    def off(function, change):
        def measured(embeddings, *args, **kwargs):
            found = function(embeddings, *args, **kwargs)
            return change(found) if embeddings.dtype == torch.float32 else found

        return measured

    monkeypatch.setattr(
        agreement, "retrieval_metrics", off(retrieval_metrics, lambda own: own | {"map_at_r": own["map_at_r"] + OFF})
    )
    monkeypatch.setattr(agreement, "geometry_metrics", off(geometry_metrics, lambda own: own | {"spectral_decay": 0.0}))
    monkeypatch.setattr(
        agreement, "clustering_metrics", off(clustering_metrics, lambda own: own | {"nmi": own["nmi"] - OFF})
    )
    monkeypatch.setattr(
        agreement, "unit_embeddings", off(unit_embeddings, lambda own: (own[0].float().double(), own[1]))
    )
    assert broken(check("metrics")) == {
        "map_at_r",
        "with a gallery: map_at_r",
        "spectral_decay",
        "nmi",
        "inputs of clustering",
    }


def test_faiss_that_finds_others(check, monkeypatch):
    assert not broken(check("faiss"))

    def off(*args, backend="auto", **kwargs):
        found = retrieval_metrics(*args, backend=backend, **kwargs)
        return found | {"recall_at_1": found["recall_at_1"] + 1e-5 * (backend == "faiss")}

    monkeypatch.setattr(agreement, "retrieval_metrics", off)
    assert broken(check("faiss")) == {"recall_at_1"}


def test_without_faiss_nothing_is_claimed(check, monkeypatch):
    def missing():
        raise ImportError("no faiss")

    monkeypatch.setattr(agreement, "import_faiss", missing)
    record = check("faiss")
    assert (record.status, record.reason) == ("skipped", "faiss is not importable (no faiss); evaluation uses torch")
