"""Which ranker does the work, and the one that asks faiss."""

import torch
from torch import Tensor

from dmlbench.evaluation.faiss_index import FaissIndex
from dmlbench.evaluation.neighbours import TIE, Search, TorchRanker, ranks_among

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
