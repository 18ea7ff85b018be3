"""Recall@k, MAP@R and R-precision: every embedding searches for its class among all others, by torch or faiss."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from dmlbench.evaluation.faiss_index import FaissIndex
from dmlbench.evaluation.inputs import Array, unit_embeddings
from dmlbench.evaluation.neighbours import TIE, Search, TorchRanker, positive_similarities, ranks_among

BACKENDS = ("auto", "torch", "faiss")

# Measured on one and two CPU cores, 128 dimensions: with fewer references or more positives PyTorch is as fast as
# faiss, which has to be imported.
FAISS_PAYS_FROM_REFERENCES = 10_000
FAISS_PAYS_TO_POSITIVES = 50


def make_ranker(search: Search, backend: str, depth: int) -> "TorchRanker | FaissRanker":
    """The ranker of a backend: given rows (B,) and their positives' similarities (B, P), it returns ranks.

    Ranks are (B, P) int64 in ascending order; all are exact up to R, the first up to ``depth`` too. What lies
    beyond is only known to lie beyond.

    Raises:
        ValueError: If the backend is unknown, or is ``faiss`` and that cannot be imported.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; valid: {', '.join(BACKENDS)}")
    if backend == "torch" or (backend == "auto" and not _faiss_pays(search)):
        return TorchRanker(search)
    try:
        return FaissRanker(search, depth)
    except ImportError as error:
        if backend == "auto":
            return TorchRanker(search)
        hint = "install faiss-cpu or faiss-gpu, or use one of: auto, torch"
        raise ValueError(f"backend 'faiss' cannot be imported ({error}); {hint}") from error


def _faiss_pays(search: Search) -> bool:
    many = len(search.references) >= FAISS_PAYS_FROM_REFERENCES
    few = int(search.positives.max()) <= FAISS_PAYS_TO_POSITIVES
    return many and few and search.references.device.type == "cpu"


class FaissRanker:
    """Exact ranks from faiss's nearest neighbours, whose similarities are computed again in float64.

    Where a reference that faiss left out could still matter, by the worst rounding error of its float32
    products, or the list is too short for the first positive, the query is ranked by PyTorch.
    """

    rows_at_once = 1024  # faiss gets slow below

    def __init__(self, search: Search, depth: int) -> None:
        self.search, self.depth = search, depth
        self.exact = TorchRanker(search)
        self.index = FaissIndex(search.references)
        # How far a float32 similarity may be off: both vectors, and a sum of D products, for vectors of length 1.
        self.margin = (search.references.shape[1] + 4) * 2.0**-24

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        """Ranks, (B, P), of the positives of the queries ``rows``; the first is exact up to the depth."""
        count = positives.shape[1]
        # R negatives, even where the R positives and the query itself are all found. A deeper recall is
        # resolved for most queries by a few more, and for the rest by counting.
        wanted = count + 1 + max(count, min(self.depth, 16))
        neighbours, left_out = self.index.search(self.search.queries[rows], wanted)
        own = (neighbours >= self.search.start[rows, None]) & (neighbours < self.search.stop[rows, None])
        ranks = ranks_among(positives, self._similarities(rows, neighbours).masked_fill(own, -torch.inf))
        limit = self.search.positives[rows, None].expand_as(ranks).clone()
        limit[:, 0].clamp_(min=self.depth)
        uncertain = (positives - TIE <= left_out[:, None] + self.margin) & (ranks <= limit)
        again = uncertain.any(dim=1).nonzero().squeeze(1)
        for begin in range(0, len(again), self.exact.rows_at_once):
            part = again[begin : begin + self.exact.rows_at_once]
            ranks[part] = self.exact(rows[part], positives[part])
        return ranks

    def _similarities(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Similarities, (B, K) float64, of the queries ``rows`` (B,) to the references ``columns`` (B, K)."""
        queries, references = self.search.queries, self.search.references
        at_once = max(1, 2**22 // (columns.shape[1] * references.shape[1]))  # 32 MB of gathered rows
        parts = [
            torch.bmm(references[near], queries[some, :, None]).squeeze(2)
            for some, near in zip(rows.split(at_once), columns.split(at_once), strict=True)
        ]
        return torch.cat(parts)


@torch.no_grad()
def retrieval_metrics(
    embeddings: Array,
    labels: Array,
    ks: Sequence[int] = (1, 2, 4, 8),
    backend: str = "auto",
    gallery: tuple[Array, Array] | None = None,
    *,
    distractors: Array | None = None,
) -> dict[str, float | int]:
    """Measure zero-shot retrieval by cosine similarity, each query kept out of its references by its index.

    With a gallery, the embeddings are queries that search there instead, and nothing is kept out. With distractors, the
    embeddings search among themselves and these: more negatives, and the same positives.

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
        distractors: Embeddings, (M, D), of further references, none of which is of a query's class.

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
    if distractors is not None and gallery is not None:
        raise ValueError("distractors go with no gallery: add them to its embeddings")
    if distractors is not None:
        units, classes = _with_distractors(units, classes, distractors)
    search = Search.of(units, classes, None if gallery is None else _references(gallery, units))
    ranker = make_ranker(search, backend, depth=max(ks))
    queries = (search.positives > 0).nonzero().squeeze(1)
    if len(queries) == 0:
        why = "no query's class is in the gallery" if gallery else f"no class has two of the {len(labels)} embeddings"
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
        "singleton_queries": len(labels) - len(queries),
    }


def _with_distractors(units: Tensor, classes: Tensor, distractors: Array) -> tuple[Tensor, Tensor]:
    """The embeddings and labels with those of distractors, each alone in a class of its own: it is never a query."""
    fresh = int(classes.max()) + 1 + torch.arange(len(distractors), device=classes.device)
    others, own = _references((distractors, fresh), units, "distractors")
    return torch.cat([units, others]), torch.cat([classes, own])


def _references(gallery: tuple[Array, Array], queries: Tensor, name: str = "gallery") -> tuple[Tensor, Tensor]:
    """A gallery's unit embeddings and labels, on the queries' device; errors begin with its `name`."""
    try:
        references, labels = unit_embeddings(*gallery, device=str(queries.device))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if references.shape[1] != queries.shape[1]:
        shapes = f"{references.shape[1]} and {queries.shape[1]}"
        raise ValueError(f"{name}: its embeddings and the queries must have one dimension, got {shapes}")
    return references, labels


def _at_r(ranks: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """R-precision and average precision at R, both (B,), of ranks (B, P) in ascending order and R (B,).

    Columns past a query's R positives are padding: they hold ranks above their own number, so above R.
    """
    retrieved = ranks <= r[:, None]
    found = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision_at_rank = (found / ranks.double()).where(retrieved, 0.0)
    return retrieved.sum(dim=1) / r.double(), precision_at_rank.sum(dim=1) / r
