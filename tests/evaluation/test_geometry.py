"""geometry_metrics against the official figures, naive pairwise sums, and degenerate embeddings."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dmlbench.evaluation import clustering_metrics, geometry_metrics, retrieval_metrics

GOLDENS = Path(__file__).parents[1] / "goldens"


def naive_intra_over_inter(vectors, labels):
    """Both mean cosine distances from all pairs."""

    def mean_distance(members):
        count = len(members)
        return sum(1 - members[i] @ members[j] for i in range(count) for j in range(i)) / (count * (count - 1) / 2)

    vectors = normalize(vectors.double())
    groups = [vectors[labels == label] for label in labels.unique()]
    intra = [mean_distance(group) for group in groups if len(group) > 1]
    inter = mean_distance(normalize(torch.stack([group.mean(dim=0) for group in groups])))
    return float(sum(intra) / len(intra) / inter)


@pytest.mark.parametrize("metrics", [geometry_metrics, clustering_metrics, retrieval_metrics])
def test_numpy_arrays_are_as_good_as_tensors(metrics):
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    classes = np.arange(40, dtype=np.int32) % 7
    assert metrics(vectors, classes) == metrics(torch.from_numpy(vectors), torch.from_numpy(classes))


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("retrieval_*.npz")), ids=lambda path: path.stem)
def test_official_figure(path):
    golden = np.load(path)
    ours = geometry_metrics(torch.from_numpy(golden["embeddings"]), torch.from_numpy(golden["labels"]))
    assert ours["spectral_decay"] == pytest.approx(float(golden["spectral_decay"]), abs=1e-6)


@pytest.mark.parametrize("shape", [(80, 12), (9, 40)])
def test_against_naive_definitions(shape):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(shape, generator=generator)
    labels = torch.randint(5, shape[:1], generator=generator)
    labels[-1] = 99  # alone in its class
    ours = geometry_metrics(3 * embeddings, labels)
    share = torch.linalg.svdvals(normalize(embeddings.double()))
    share = share / share.sum()
    assert ours["spectral_decay"] == pytest.approx(float(-(len(share) * share).log().mean()), abs=1e-8)
    assert ours["intra_over_inter"] == pytest.approx(naive_intra_over_inter(embeddings, labels), rel=1e-8)


def test_equal_use_of_all_directions_has_no_decay():
    labels = torch.arange(24) % 8
    metrics = geometry_metrics(torch.eye(8)[labels], labels)
    assert metrics["spectral_decay"] == pytest.approx(0.0, abs=1e-12)
    assert metrics["intra_over_inter"] == pytest.approx(0.0, abs=1e-9)


def test_fewer_directions_mean_more_decay_and_never_infinity():
    labels = torch.arange(24) % 8
    decays = []
    for rank in (8, 6, 3, 1):
        embeddings = torch.eye(8)[labels.clamp(max=rank - 1)]
        decays.append(geometry_metrics(embeddings, labels)["spectral_decay"])
    assert decays == sorted(decays)
    assert 5 < decays[-1] < 16
    zeros = geometry_metrics(torch.zeros(24, 8), labels)
    assert zeros["spectral_decay"] == pytest.approx(decays[-1])


def test_coinciding_embeddings_are_no_tight_classes():
    labels = torch.arange(20) % 4
    assert geometry_metrics(torch.ones(20, 3), labels)["intra_over_inter"] == pytest.approx(1.0, abs=1e-2)
    # Two classes with one centroid: each holds both directions.
    crossed = geometry_metrics(torch.eye(2)[torch.tensor([0, 1, 0, 1])], torch.tensor([0, 0, 1, 1]))
    assert math.isfinite(crossed["intra_over_inter"])
    assert crossed["intra_over_inter"] > 1e6


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_one_class_or_only_singletons_is_an_error(labels):
    with pytest.raises(ValueError, match="need two classes, one of them with two members"):
        geometry_metrics(torch.eye(3), torch.tensor(labels))


def test_non_finite_embeddings():
    with pytest.raises(ValueError, match="finite"):
        geometry_metrics(torch.full((4, 2), torch.inf), torch.tensor([0, 0, 1, 1]))
