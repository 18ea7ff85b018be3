"""Recall@k, MAP@R and R-precision: every embedding searches for its class among all others."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from dmlbench.evaluation.inputs import Array, unit_embeddings
from dmlbench.evaluation.neighbours import Gallery, positive_similarities
from dmlbench.evaluation.rankers import make_ranker


@torch.no_grad()
def retrieval_metrics(
    embeddings: Array, labels: Array, ks: Sequence[int] = (1, 2, 4, 8), backend: str = "auto"
) -> dict[str, float | int]:
    """Measure zero-shot retrieval by cosine similarity, each query kept out of its references by its index.

    All three metrics follow from the ranks of a query's positives, and a tie never counts in a method's
    favour: the rank of a positive is one, plus the positives before it, plus every negative that is at least
    as similar. So collapsed embeddings score 0, and neither the order in which the references are stored nor
    the backend can change a number. With R the number of positives of a query,

    - ``recall_at_k`` is the share of queries whose first positive has rank k or better;
    - ``r_precision`` is the mean share of positives among the R nearest;
    - ``map_at_r`` is the mean of (1 / R) x the sum, over the positives ranked R or better, of the precision
      at their rank (Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020).

    Queries alone in their class have nothing to find: they are left out, and counted, but stay as references.
    Similarities are compared in float64. Memory grows with N x D and with the largest class, never with N^2.

    Args:
        embeddings: (N, D), floating point, a tensor or a numpy array; normalised here. Their device does the work.
        labels: (N,), integers.
        ks: The cut-offs of recall, each at least 1.
        backend: ``torch``, ``faiss`` or ``auto``, the faster of the two that are installed.

    Returns:
        ``recall_at_<k>`` for every k, ``map_at_r`` and ``r_precision``, in 0..1; ``queries``, how many were
        averaged over, and ``singleton_queries``, how many were left out.

    Raises:
        ValueError: If the shapes or types do not match, an embedding is not finite, no class has two embeddings, a k
            is no integer above 0, or the backend is unknown or not installed.
    """
    if not ks or not all(isinstance(k, Integral) and k >= 1 for k in ks):
        raise ValueError(f"ks must be one or more integers >= 1, got {tuple(ks)}")
    gallery = Gallery.of(*unit_embeddings(embeddings, labels))
    ranker = make_ranker(gallery, backend, depth=max(ks))
    queries = (gallery.positives > 0).nonzero().squeeze(1)
    if len(queries) == 0:
        raise ValueError(f"no class has two of the {len(labels)} embeddings, so there is nothing to retrieve")

    first_ranks, precisions, average_precisions = [], [], []
    for rows in queries.split(ranker.rows_at_once):
        with torch.autocast(rows.device.type, enabled=False):  # counts are sums, too
            ranks = ranker(rows, positive_similarities(gallery, rows))
        precision, average_precision = _at_r(ranks, gallery.positives[rows])
        first_ranks.append(ranks[:, 0])
        precisions.append(precision)
        average_precisions.append(average_precision)

    first_rank = torch.cat(first_ranks)
    return {
        **{f"recall_at_{k}": (first_rank <= k).double().mean().item() for k in ks},
        "map_at_r": torch.cat(average_precisions).mean().item(),
        "r_precision": torch.cat(precisions).mean().item(),
        "queries": len(queries),
        "singleton_queries": len(labels) - len(queries),
    }


def _at_r(ranks: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """R-precision and average precision at R, both (B,), of ranks (B, P) in ascending order and R (B,).

    Columns past a query's R positives are padding: they hold ranks above their own number, so above R.
    """
    retrieved = ranks <= r[:, None]
    found = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision_at_rank = (found / ranks.double()).where(retrieved, 0.0)
    return retrieved.sum(dim=1) / r.double(), precision_at_rank.sum(dim=1) / r
