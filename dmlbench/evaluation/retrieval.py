"""Recall@k, MAP@R and R-precision: every embedding searches for its class among all others."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from dmlbench.evaluation.inputs import Array, unit_embeddings
from dmlbench.evaluation.neighbours import Search, positive_similarities
from dmlbench.evaluation.rankers import make_ranker


@torch.no_grad()
def retrieval_metrics(
    embeddings: Array,
    labels: Array,
    ks: Sequence[int] = (1, 2, 4, 8),
    backend: str = "auto",
    gallery: tuple[Array, Array] | None = None,
) -> dict[str, float | int]:
    """Measure zero-shot retrieval by cosine similarity, each query kept out of its references by its index.

    With a gallery, the embeddings are queries that search there instead, and nothing is kept out.

    All three metrics follow from the ranks of a query's positives, and a tie never counts in a method's
    favour: the rank of a positive is one, plus the positives before it, plus every negative that is at least
    as similar. So collapsed embeddings score 0, and neither the order in which the references are stored nor
    the backend can change a number. With R the number of positives of a query,

    - ``recall_at_k`` is the share of queries whose first positive has rank k or better;
    - ``r_precision`` is the mean share of positives among the R nearest;
    - ``map_at_r`` is the mean of (1 / R) x the sum, over the positives ranked R or better, of the precision
      at their rank (Musgrave, Belongie and Lim, "A Metric Learning Reality Check", ECCV 2020).

    Queries alone in their class, or of a class that the gallery does not have, find nothing: they are left out, and
    counted, but stay as references.
    Similarities are compared in float64. Memory grows with N x D and with the largest class, never with N^2.

    Args:
        embeddings: (N, D), floating point, a tensor or a numpy array; normalised here. Their device does the work.
        labels: (N,), integers.
        ks: The cut-offs of recall, each at least 1.
        backend: ``torch``, ``faiss`` or ``auto``, the faster of the two that are installed.
        gallery: Embeddings, (M, D), and labels, (M,), of the references; None for the embeddings themselves.

    Returns:
        ``recall_at_<k>`` for every k, ``map_at_r`` and ``r_precision``, in 0..1; ``queries``, how many were
        averaged over, and ``singleton_queries``, how many were left out.

    Raises:
        ValueError: If the shapes or types do not match, an embedding is not finite, no query has a positive, a k
            is no integer above 0, or the backend is unknown or not installed.
    """
    if not ks or not all(isinstance(k, Integral) and k >= 1 for k in ks):
        raise ValueError(f"ks must be one or more integers >= 1, got {tuple(ks)}")
    units, classes = unit_embeddings(embeddings, labels)
    search = Search.of(units, classes, None if gallery is None else _references(gallery, units))
    ranker = make_ranker(search, backend, depth=max(ks))
    queries = (search.positives > 0).nonzero().squeeze(1)
    if len(queries) == 0:
        no_class = f"no class has two of the {len(classes)} embeddings"
        why = no_class if gallery is None else "no query's class is in the gallery"
        raise ValueError(f"{why}, so there is nothing to retrieve")

    first_ranks, precisions, average_precisions = [], [], []
    for rows in queries.split(ranker.rows_at_once):
        with torch.autocast(rows.device.type, enabled=False):  # counts are sums, too
            ranks = ranker(rows, positive_similarities(search, rows))
        precision, average_precision = _at_r(ranks, search.positives[rows])
        first_ranks.append(ranks[:, 0])
        precisions.append(precision)
        average_precisions.append(average_precision)

    first_rank = torch.cat(first_ranks)
    return {
        **{f"recall_at_{k}": (first_rank <= k).double().mean().item() for k in ks},
        "map_at_r": torch.cat(average_precisions).mean().item(),
        "r_precision": torch.cat(precisions).mean().item(),
        "queries": len(queries),
        "singleton_queries": len(classes) - len(queries),
    }


def _references(gallery: tuple[Array, Array], queries: Tensor) -> tuple[Tensor, Tensor]:
    """A gallery's unit embeddings and labels, on the queries' device."""
    try:
        references, labels = unit_embeddings(*gallery, device=str(queries.device))
    except ValueError as error:
        raise ValueError(f"gallery: {error}") from error
    if references.shape[1] != queries.shape[1]:
        shapes = f"{references.shape[1]} and {queries.shape[1]}"
        raise ValueError(f"gallery: its embeddings and the queries must have one dimension, got {shapes}")
    return references, labels


def _at_r(ranks: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """R-precision and average precision at R, both (B,), of ranks (B, P) in ascending order and R (B,).

    Columns past a query's R positives are padding: they hold ranks above their own number, so above R.
    """
    retrieved = ranks <= r[:, None]
    found = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision_at_rank = (found / ranks.double()).where(retrieved, 0.0)
    return retrieved.sum(dim=1) / r.double(), precision_at_rank.sum(dim=1) / r
