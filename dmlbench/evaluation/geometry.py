"""The shape of an embedding space: how many directions it uses, how tight its classes are."""

import torch
from torch import Tensor

from dmlbench.evaluation.inputs import Array, unit_embeddings

# Added to both mean distances, far below any that matters: 0 / 0 becomes 1.
_DISTANCE_FLOOR = 1e-12


@torch.no_grad()
def geometry_metrics(embeddings: Array, labels: Array) -> dict[str, float]:
    """Measure spectral decay and class tightness (Roth et al., ICML 2020, section 5), both without units.

    - ``spectral_decay``: the Kullback-Leibler divergence of the uniform distribution to the min(N, D)
      singular values of the normalised embeddings, scaled to sum 1. 0 where all directions are used alike; it
      grows as fewer are. A singular value counts as at least 2^-23 of the largest, the resolution of float32
      embeddings, so a matrix without full rank has a large value (below 16) and not an infinite one.
    - ``intra_over_inter``: the mean cosine distance between two members of a class, averaged over the
      classes, divided by the mean cosine distance between two class centroids. Classes of one have no inner
      distance and count by their centroid only. Where all embeddings coincide it is 1 (no class is
      tighter than the whole); where only the centroids coincide it is huge, but finite.

    Args:
        embeddings: (N, D), floating point, a tensor or a numpy array; normalised here.
        labels: (N,), integers.

    Raises:
        ValueError: If the shapes or types do not match, an embedding is not finite, or there are not two classes of
            which one has two members.
    """
    # On the CPU: it takes two small products, and sums over classes have no fixed order on a GPU.
    vectors, classes = unit_embeddings(embeddings, labels, device="cpu")
    return {
        "spectral_decay": _spectral_decay(vectors),
        "intra_over_inter": _intra_over_inter(vectors, classes),
    }


def _spectral_decay(vectors: Tensor) -> float:
    wide = vectors.shape[0] < vectors.shape[1]
    gram = vectors @ vectors.T if wide else vectors.T @ vectors
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()  # ascending
    relative = singular / singular[-1].clamp(min=torch.finfo(torch.float64).tiny)
    relative[-1] = 1.0  # it is, unless all embeddings are zero: those count as one direction
    relative.clamp_(min=torch.finfo(torch.float32).eps)
    share = relative / relative.sum()
    return max(0.0, -float((share * len(share)).log().mean()))


def _intra_over_inter(vectors: Tensor, classes: Tensor) -> float:
    _, class_index, sizes = classes.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2 or sizes.max() < 2:
        raise ValueError(f"need two classes, one of them with two members; got {len(sizes)} of {len(vectors)} rows")
    sums = vectors.new_zeros(len(sizes), vectors.shape[1]).index_add_(0, class_index, vectors)
    squares = vectors.new_zeros(len(sizes)).index_add_(0, class_index, vectors.square().sum(dim=1))
    paired = sizes > 1
    intra = _mean_distance(sums[paired], squares[paired], sizes[paired]).mean()
    centroids = torch.nn.functional.normalize(sums, dim=1, eps=1e-30)
    inter = _mean_distance(centroids.sum(dim=0), centroids.square().sum(), sizes.new_tensor(len(sizes)))
    return float((intra + _DISTANCE_FLOOR) / (inter + _DISTANCE_FLOOR))


def _mean_distance(total: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    """Mean cosine distance between two of ``count`` vectors, given their sum (..., D) and squared lengths.

    The square of the sum holds the products of all pairs, so no N x N matrix is needed.
    """
    products = total.square().sum(dim=-1) - squares
    return (1 - products / (count * (count - 1))).clamp(min=0)
