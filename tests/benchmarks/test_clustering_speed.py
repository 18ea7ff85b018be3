"""NMI and AMI against torchmetrics, and the k-means below them against faiss.

pytest -m benchmark tests/benchmarks/test_clustering_speed.py -s
"""

import faiss
import numpy as np
import pytest
import torch
from torchmetrics.functional.clustering import adjusted_mutual_info_score, normalized_mutual_info_score

from dmlbench.evaluation.clustering import agreement, clustering_metrics
from tests.benchmarks.by_turns import time_by_turns
from tests.benchmarks.test_retrieval_speed import make_set

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")]


@pytest.fixture(autouse=True)
def two_threads(threads):
    threads(2)


@pytest.mark.parametrize(("count", "classes", "ami"), [(2_000, 100, True), (60_502, 11_316, False)])
def test_agreement_of_two_labellings(count, classes, ami, row):
    """Ours gives both scores; torchmetrics' AMI of 11,316 classes would take hours."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    clusters = np.where(rng.random(count) < 0.3, rng.integers(0, classes, count), labels)
    tensors = torch.from_numpy(labels), torch.from_numpy(clusters)
    peers = [normalized_mutual_info_score, *([adjusted_mutual_info_score] if ami else [])]
    name = "torchmetrics, NMI and AMI" if ami else "torchmetrics, NMI alone"
    calls = {"ours, NMI and AMI": lambda: agreement(labels, clusters), name: lambda: [peer(*tensors) for peer in peers]}
    for mine, theirs in zip(calls["ours, NMI and AMI"](), calls[name](), strict=False):
        assert mine == pytest.approx(float(theirs), abs=1e-4)
    timings = time_by_turns(calls, rounds=3, warm_up=0)
    for by in calls:
        what = {"labels": f"{count:,}", "classes": f"{classes:,}", "by": by}
        row("Agreement of clusters and classes", **what, seconds=timings.median(by), **timings.ratio_cells(by, name, 4))


def faiss_k_means(points, k, seed):
    """Its k-means as peers use it: random starts, 25 iterations."""
    settings = faiss.ClusteringParameters()
    settings.niter, settings.seed = 25, seed
    settings.max_points_per_centroid, settings.min_points_per_centroid = len(points), 1
    clustering, index = faiss.Clustering(points.shape[1], k, settings), faiss.IndexFlatL2(points.shape[1])
    clustering.train(points, index)
    return index.search(points, 1)[1][:, 0]


@pytest.mark.parametrize(
    ("count", "classes", "noise", "rounds"), [(2_000, 100, 2.0, 9), (5_924, 100, 2.0, 9), (60_502, 11_316, 1.4, 3)]
)
def test_k_means(count, classes, noise, rounds, row):
    """Each round from another start, for NMI depends on it."""
    embeddings, labels = make_set(count, 128, classes, noise)
    points, labels = embeddings.numpy(), labels.numpy()
    ways = {
        "ours (scikit-learn)": lambda seed: clustering_metrics(points, labels, seed=seed, runs=1)["nmi"],
        "faiss, 25 iterations": lambda seed: agreement(labels, faiss_k_means(points, classes, seed))[0],
    }
    found = {name: [] for name in ways}

    def call(name):
        return lambda: found[name].append(ways[name](len(found[name])))

    timings = time_by_turns({name: call(name) for name in ways}, rounds, warm_up=0)
    for name, scores in found.items():
        what = {"embeddings": f"{count:,} x 128", "classes": f"{classes:,}", "by": name}
        seconds, ratio = f"{timings.median(name):.3f}", timings.ratio_cells(name, "faiss, 25 iterations")
        nmi = {"NMI": f"{np.mean(scores):.4f}", "its standard deviation": f"{np.std(scores, ddof=1):.4f}"}
        row("k-means of NMI and AMI, two threads", **what, seconds=seconds, **ratio, **nmi)
