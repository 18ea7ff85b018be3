import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn.functional import normalize

from dmlbench.evaluation.clustering import agreement
from dmlbench.evaluation.k_means import k_means


def noisy(count: int, classes: int, dim: int, noise: float) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dim, generator=generator)
    return normalize(centres[labels] + noise * torch.randn(count, dim, generator=generator), dim=1), labels.numpy()


def inertia(points: torch.Tensor, clusters: np.ndarray) -> float:
    own = [points[torch.from_numpy(clusters == number)] for number in np.unique(clusters)]
    return sum(float((part - part.mean(dim=0)).square().sum()) for part in own)


@pytest.mark.parametrize("careful", [True, False])
def test_clusters_are_as_good_as_scikit_learns(careful):
    """Of 20 starts each: the sum of squared distances to the centres within .5%, NMI within three standard errors."""
    points, classes = noisy(800, 25, 16, 0.8)
    init = "k-means++" if careful else "random"
    ours = [k_means(points, 25, seed, careful=careful).numpy() for seed in range(20)]
    theirs = [KMeans(25, init=init, n_init=1, random_state=seed).fit_predict(points.numpy()) for seed in range(20)]
    means = [np.mean([inertia(points, own) for own in each]) for each in (ours, theirs)]
    assert means[0] == pytest.approx(means[1], rel=0.005 if careful else 0.02)
    scores = np.array([[agreement(classes, own)[0] for own in each] for each in (ours, theirs)])
    error = np.sqrt((scores.var(axis=1, ddof=1) / 20).sum())
    assert abs(scores[0].mean() - scores[1].mean()) < 3 * error


def test_clusters_that_are_far_apart_are_found():
    points, classes = noisy(120, 6, 8, 0.05)
    assert agreement(classes, k_means(points, 6, 0, careful=True).numpy()) == (pytest.approx(1), pytest.approx(1))


def test_no_cluster_stays_empty_where_points_differ():
    points, _ = noisy(60, 3, 4, 0.3)
    for seed in range(5):
        assert len(k_means(points, 40, seed, careful=False).unique()) == 40


def test_one_seed_one_clustering():
    points, _ = noisy(200, 10, 8, 0.8)
    one, again, other = (k_means(points, 10, seed, careful=True) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_points_that_coincide_end():
    assert set(k_means(torch.ones(30, 4), 5, 0, careful=True).tolist()) <= set(range(5))


@pytest.mark.parametrize("k", [0, 11])
def test_more_clusters_than_points_are_refused(k):
    with pytest.raises(ValueError, match=f"k must be from 1 to the 10 points, got {k}"):
        k_means(torch.ones(10, 2), k, 0, careful=True)
