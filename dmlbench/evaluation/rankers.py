"""Which ranker does the work, and the one that asks faiss."""

import torch
from torch import Tensor

from dmlbench.evaluation.faiss_index import FaissIndex
from dmlbench.evaluation.neighbours import TIE, Gallery, TorchRanker, exact_similarities, ranks_among, rounding
from dmlbench.evaluation.quick_ranker import QuickRanker

BACKENDS = ("auto", "torch", "faiss")

# Measured on one and two CPU cores, 128 dimensions: with fewer references or more positives float64 is as fast as
# float32 with its checks, and PyTorch as faiss, which has to be imported.
QUICK_PAYS_FROM_REFERENCES = 10_000
QUICK_PAYS_TO_POSITIVES = 20
FAISS_PAYS_FROM_REFERENCES = 10_000
FAISS_PAYS_TO_POSITIVES = 50


def make_ranker(gallery: Gallery, backend: str, depth: int) -> "TorchRanker | QuickRanker | FaissRanker":
    """The ranker of a backend: given rows (B,) and their positives' similarities (B, P), it returns ranks.

    Ranks are (B, P) int64 in ascending order; all are exact up to R, the first up to ``depth`` too. What lies
    beyond is only known to lie beyond.

    Raises:
        ValueError: If the backend is unknown, or is ``faiss`` and that cannot be imported.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; valid: {', '.join(BACKENDS)}")
    if backend == "torch" or (
        backend == "auto" and not _pays(gallery, FAISS_PAYS_FROM_REFERENCES, FAISS_PAYS_TO_POSITIVES)
    ):
        return torch_ranker(gallery)
    try:
        return FaissRanker(gallery, depth)
    except ImportError as error:
        if backend == "auto":
            return torch_ranker(gallery)
        hint = "install faiss-cpu or faiss-gpu, or use one of: auto, torch"
        raise ValueError(f"backend 'faiss' cannot be imported ({error}); {hint}") from error


def torch_ranker(gallery: Gallery) -> TorchRanker | QuickRanker:
    """The faster of the two that need no faiss."""
    quick = _pays(gallery, QUICK_PAYS_FROM_REFERENCES, QUICK_PAYS_TO_POSITIVES)
    return QuickRanker(gallery) if quick else TorchRanker(gallery)


def _pays(gallery: Gallery, from_references: int, to_positives: int) -> bool:
    many = len(gallery.embeddings) >= from_references
    return many and int(gallery.positives.max()) <= to_positives and gallery.embeddings.device.type == "cpu"


class FaissRanker:
    """Exact ranks from faiss's nearest neighbours, whose similarities are computed again in float64.

    Where a reference that faiss left out could still matter, by the worst rounding error of its float32
    products, or the list is too short for the first positive, the query is ranked by PyTorch.
    """

    rows_at_once = 1024  # faiss gets slow below

    def __init__(self, gallery: Gallery, depth: int) -> None:
        self.gallery, self.depth = gallery, depth
        self.exact = torch_ranker(gallery)
        self.index = FaissIndex(gallery.embeddings)
        self.margin = rounding(gallery)

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        """Ranks, (B, P), of the positives of the queries ``rows``; the first is exact up to the depth."""
        count = positives.shape[1]
        # R negatives, even where the R positives and the query itself are all found. A deeper recall is
        # resolved for most queries by a few more, and for the rest by counting.
        wanted = count + 1 + max(count, min(self.depth, 16))
        neighbours, left_out = self.index.search(rows, wanted)
        own = (neighbours >= self.gallery.start[rows, None]) & (neighbours < self.gallery.stop[rows, None])
        similarities = exact_similarities(self.gallery, rows, neighbours).masked_fill(own, -torch.inf)
        ranks = ranks_among(positives, similarities)
        limit = self.gallery.positives[rows, None].expand_as(ranks).clone()
        limit[:, 0].clamp_(min=self.depth)
        uncertain = (positives - TIE <= left_out[:, None] + self.margin) & (ranks <= limit)
        again = uncertain.any(dim=1).nonzero().squeeze(1)
        for begin in range(0, len(again), self.exact.rows_at_once):
            part = again[begin : begin + self.exact.rows_at_once]
            ranks[part] = self.exact(rows[part], positives[part])
        return ranks
