"""clustering_metrics: agreement scores against scikit-learn's and the official figures, and its seeds."""

import time
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from dmlbench.evaluation import clustering, clustering_metrics, geometry_metrics, revisiting_nmi
from dmlbench.evaluation.clustering import agreement

GOLDENS = Path(__file__).parents[1] / "goldens"


def blobs(count=300, dimension=16, classes=12, noise=1.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dimension, generator=generator)
    return centres[labels] + noise * torch.randn(count, dimension, generator=generator), labels


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("retrieval_*.npz")), ids=lambda path: path.stem)
def test_official_figures(path):
    golden = np.load(path)
    nmi, ami = agreement(golden["labels"], golden["clusters"])
    assert nmi == pytest.approx(float(golden["nmi"]), abs=1e-6)
    assert ami == pytest.approx(float(golden["ami"]), abs=1e-6)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_agreement_is_scikit_learns(count, classes, clusters, seed):
    generator = np.random.default_rng(seed)
    one, other = generator.integers(0, classes, count), generator.integers(0, clusters, count)
    nmi, ami = agreement(one, other)
    assert nmi == pytest.approx(normalized_mutual_info_score(one, other), abs=1e-9)
    if len(set(one)) < count or len(set(other)) < count:  # else 0 / 0
        assert ami == pytest.approx(adjusted_mutual_info_score(one, other), abs=1e-9)


def test_every_sample_its_own_class_and_cluster_is_a_perfect_match():
    assert agreement(np.arange(40), np.arange(40)[::-1]) == pytest.approx((1.0, 1.0))


def test_chance_agreement_of_as_many_classes_as_stanford_online_products_scores_0_quickly():
    """A twentieth of a second; scikit-learn's sum over 128 million pairs of classes takes 20."""
    classes = np.arange(60502) % 11316
    clusters = np.random.default_rng(0).permutation(classes)
    begin = time.process_time()
    nmi, ami = agreement(classes, clusters)
    assert time.process_time() - begin < 5
    assert nmi > 0.8
    assert ami == pytest.approx(0.0, abs=0.01)


def test_separate_classes_score_1_and_collapsed_ones_0():
    labels = torch.arange(60) % 6
    separate = clustering_metrics(torch.eye(6)[labels], labels)
    assert separate["nmi"] == pytest.approx(1.0)
    assert separate["ami"] == pytest.approx(1.0)
    collapsed = clustering_metrics(torch.ones(60, 6), labels)
    assert collapsed == {"nmi": 0.0, "ami": 0.0, "nmi_std": 0.0}
    one_class = clustering_metrics(torch.eye(6), torch.zeros(6).long())
    assert one_class == {"nmi": 1.0, "ami": 1.0, "nmi_std": 0.0}


def test_scores_are_the_mean_over_runs_and_depend_on_the_seed_alone():
    embeddings, labels = blobs(noise=2.0)
    metrics = clustering_metrics(embeddings, labels, seed=3)
    assert metrics == clustering_metrics(5 * embeddings, labels, seed=3)
    assert metrics != clustering_metrics(embeddings, labels, seed=4)
    assert metrics["nmi_std"] > 0
    assert clustering_metrics(embeddings, labels, seed=3, runs=1)["nmi_std"] == 0
    assert 0 < metrics["ami"] < metrics["nmi"] < 1


def test_many_classes_start_from_random_rows(monkeypatch):
    monkeypatch.setattr(clustering, "_MAX_CAREFUL_SEEDING", 5)
    embeddings, labels = blobs(noise=0.1)
    assert clustering_metrics(embeddings, labels)["nmi"] > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "runs must be >= 1"),
        ({"runs": 1.5}, "runs must be >= 1, got 1.5"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        clustering_metrics(*blobs(), **options)


def test_non_finite_embeddings():
    with pytest.raises(ValueError, match="finite"):
        clustering_metrics(torch.full((4, 2), torch.nan), torch.zeros(4).long())


@pytest.mark.parametrize("metrics", [clustering_metrics, geometry_metrics])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda embeddings, labels: (embeddings, [str(label) for label in labels.tolist()]), "labels must be a tensor"),
        (lambda embeddings, labels: (embeddings.to(torch.complex64), labels), "embeddings must be floating-point"),
        (
            lambda embeddings, labels: (embeddings.long(), labels),
            "embeddings must be floating-point numbers, got torch",
        ),
        (lambda embeddings, labels: (embeddings, labels[1:]), "must have the shapes"),
        (lambda embeddings, labels: (embeddings[:0], labels[:0]), "N and D > 0"),
    ],
)
def test_bad_input_of_the_other_metrics(metrics, change, message):
    with pytest.raises(ValueError, match=message):
        metrics(*change(*(torch.as_tensor(part) for part in blobs())))


def test_the_nmi_of_roth_et_al_is_their_procedure():
    embeddings, labels = blobs(noise=0.6)
    points = np.asarray(torch.nn.functional.normalize(torch.as_tensor(embeddings), dim=1), dtype=np.float32)
    classes = np.asarray(labels)
    k_means = faiss.Kmeans(
        points.shape[1], 7, niter=20, seed=1234, min_points_per_centroid=1, max_points_per_centroid=10**9
    )
    k_means.train(points)
    expected = normalized_mutual_info_score(classes, k_means.index.search(points, 1)[1][:, 0])
    assert revisiting_nmi(embeddings, labels, 7) == pytest.approx(expected, abs=1e-6)
    assert revisiting_nmi(embeddings, labels, 7) == revisiting_nmi(embeddings, labels, 7)
    assert revisiting_nmi(embeddings, labels, 2) != revisiting_nmi(embeddings, labels, 7)


@pytest.mark.parametrize("clusters", [0, 1.5, 10**6])
def test_clusters_of_roth_et_al_out_of_range(clusters):
    with pytest.raises(ValueError, match="clusters must be an integer from 1 to the"):
        revisiting_nmi(*blobs(), clusters)
