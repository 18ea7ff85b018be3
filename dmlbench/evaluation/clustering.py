"""How well k-means clusters of the embeddings agree with the classes."""

import warnings
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from dmlbench.evaluation.faiss_index import import_faiss
from dmlbench.evaluation.inputs import Array, unit_embeddings
from dmlbench.evaluation.k_means import k_means

# k-means++ passes over the data a dozen times per class: hours at the 11,316 of Stanford Online Products.
_MAX_CAREFUL_SEEDING = 1000


@torch.no_grad()
def clustering_metrics(embeddings: Array, labels: Array, seed: int = 0, runs: int = 3) -> dict[str, float]:
    """Cluster the normalised embeddings by k-means, k = classes present, and compare with the classes.

    The scores depend on where k-means starts (standard deviation about .01 at 100 classes), so they are means
    over ``runs`` starts. Starts are drawn by k-means++ up to 1,000 classes and uniformly among the embeddings
    above. On a CPU k-means is scikit-learn's, with as many threads as PyTorch has; embeddings on another device are
    clustered there by the same rules, from other starts.

    Args:
        embeddings: (N, D), floating point, a tensor or a numpy array; normalised here. Their device does the work.
        labels: (N,), integers.
        seed: Seed of the k-means starts, >= 0.
        runs: How many k-means runs are averaged.

    Returns:
        ``nmi``, normalised by the mean of the two entropies, in 0..1; ``ami``, corrected for chance (Vinh, Epps
        and Bailey, JMLR 2010), at most 1; ``nmi_std``, the standard deviation of ``nmi`` over the runs. A
        single class gives 1, collapsed embeddings of several classes give 0.

    Raises:
        ValueError: If the shapes or types do not match, an embedding is not finite, ``runs`` is below 1, or ``seed``
            below 0.
    """
    if not isinstance(runs, Integral) or runs < 1:
        raise ValueError(f"runs must be >= 1, got {runs}")
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be an integer >= 0, got {seed}")
    points, labels = unit_embeddings(embeddings, labels)
    classes = labels.cpu().numpy()
    k = len(np.unique(classes))
    starts = np.random.SeedSequence(seed).generate_state(runs)
    scores = np.array([agreement(classes, _clusters(points.float(), k, int(start))) for start in starts])
    nmi, ami = scores.mean(axis=0)
    return {"nmi": float(nmi), "ami": float(ami), "nmi_std": float(scores[:, 0].std())}


@torch.no_grad()
def revisiting_nmi(embeddings: Array, labels: Array, clusters: int, seed: int = 1234) -> float:
    """NMI as Roth et al. (ICML 2020) measure it: the one their published figures can be compared with.

    Their code asks faiss for one k-means run of 20 iterations from random embeddings, with as many clusters as there
    are TRAINING classes. On the same embeddings the ``nmi`` of `clustering_metrics`, by k-means++ to convergence with
    the classes that are present, is higher by .003 to .013. Runs on the CPU with as many threads as PyTorch has.

    Args:
        embeddings: (N, D), floating point, a tensor or a numpy array; normalised here.
        labels: (N,), integers.
        clusters: How many; the number of training classes, at most N.
        seed: Of the start; theirs is the default of faiss.

    Returns:
        NMI, normalised by the mean of the two entropies, in 0..1.

    Raises:
        ValueError: If the shapes or types do not match, an embedding is not finite, or there are fewer embeddings than
            clusters.
    """
    vectors, labels = unit_embeddings(embeddings, labels, device="cpu")
    if not isinstance(clusters, Integral) or not 1 <= clusters <= len(labels):
        raise ValueError(f"clusters must be an integer from 1 to the {len(labels)} embeddings, got {clusters}")
    faiss = import_faiss()
    points = vectors.float().contiguous().numpy()
    k_means = faiss.Clustering(points.shape[1], int(clusters))
    k_means.niter, k_means.seed = 20, seed
    k_means.min_points_per_centroid, k_means.max_points_per_centroid = 1, 1_000_000_000  # all points, and no warning
    index = faiss.IndexFlatL2(points.shape[1])
    with threadpool_limits(torch.get_num_threads(), "openmp"):
        k_means.train(points, index)
        centroids = faiss.vector_to_array(k_means.centroids).reshape(clusters, points.shape[1])
        nearest = faiss.IndexFlatL2(points.shape[1])
        nearest.add(centroids)
        found = nearest.search(points, 1)[1][:, 0]
    return agreement(labels.numpy(), found)[0]


def _clusters(points: Tensor, k: int, seed: int) -> NDArray[np.integer]:
    """Cluster numbers, (N,), of points (N, D)."""
    if points.device.type != "cpu":
        found: NDArray[np.int64] = k_means(points, k, seed, careful=k <= _MAX_CAREFUL_SEEDING).cpu().numpy()
        return found
    # Imported here because together they take a second.
    from sklearn.cluster import KMeans  # noqa: PLC0415
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

    init = "k-means++" if k <= _MAX_CAREFUL_SEEDING else "random"
    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
        # Embeddings that coincide leave clusters empty: a bad score, which says so by itself.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters: NDArray[np.int32] = KMeans(k, init=init, n_init=1, random_state=seed).fit_predict(points.numpy())
        return clusters


def agreement(classes: NDArray[np.integer], clusters: NDArray[np.integer]) -> tuple[float, float]:
    """NMI (arithmetic mean of the entropies) and AMI of two labellings, each (N,)."""
    from sklearn.metrics import mutual_info_score, normalized_mutual_info_score  # noqa: PLC0415

    nmi = float(normalized_mutual_info_score(classes, clusters))
    class_sizes = np.unique(classes, return_counts=True)[1]
    cluster_sizes = np.unique(clusters, return_counts=True)[1]
    if len(class_sizes) == 1 or len(cluster_sizes) == 1:
        return nmi, float(len(class_sizes) == len(cluster_sizes))
    expected = _expected_mutual_information(class_sizes, cluster_sizes)
    mean_entropy = (_entropy(class_sizes) + _entropy(cluster_sizes)) / 2
    room = mean_entropy - expected
    # No room above chance: every sample is a class and a cluster of its own, which is a perfect match.
    return nmi, float((mutual_info_score(classes, clusters) - expected) / room) if room > 1e-12 else 1.0


def _entropy(sizes: NDArray[np.integer]) -> float:
    share = sizes / sizes.sum()
    return float(-(share * np.log(share)).sum())


def _expected_mutual_information(class_sizes: NDArray[np.integer], cluster_sizes: NDArray[np.integer]) -> float:
    """Mutual information expected by chance for given sizes (Vinh et al., 2010).

    The sum runs over distinct pairs of sizes, each weighted by how often it occurs: the sizes of 11,316
    classes are only about a dozen, and a sum over all pairs of classes and clusters takes 20 seconds.
    """
    from scipy.special import gammaln  # noqa: PLC0415

    n = int(class_sizes.sum())
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    b, b_times = np.unique(cluster_sizes, return_counts=True)
    total = 0.0
    for a, a_times in zip(*np.unique(class_sizes, return_counts=True), strict=True):
        shared = np.arange(1, min(a, b.max()) + 1)[:, None]  # members that class and cluster have in common
        outside = n - a - b + shared
        possible = (shared <= b) & (outside >= 0)
        splits = log_factorial[a] + log_factorial[b] + log_factorial[n - a] + log_factorial[n - b]
        within = log_factorial[shared] + log_factorial[a - shared] + log_factorial[np.maximum(b - shared, 0)]
        probability = np.exp(splits - within - log_factorial[np.maximum(outside, 0)] - log_factorial[n])
        information = shared / n * np.log(n * shared / (a * b))
        total += a_times * (np.where(possible, probability * information, 0.0) * b_times).sum()
    return float(total)
