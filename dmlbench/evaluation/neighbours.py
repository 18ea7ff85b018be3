"""The ranks of each query's positives among all references, exactly.

The negatives that matter to a query with R positives are its R hardest ones: a positive behind all of those
is not among the R nearest. Ranks need only their similarities, not which rows they are, so a tie at the
cut-off has nothing to decide.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

# Similarities this close are equal: products of float64 unit vectors err by about 1e-15, whatever the kernel.
TIE = 1e-12

# Queries x references at a time: a CPU's tile should stay in its cache, a GPU needs more work to be busy.
CPU_TILE = (256, 4096)
GPU_TILE = (2048, 16384)


@dataclass(frozen=True)
class Gallery:
    """Unit embeddings ordered so that every class is one run of rows, small classes first.

    Attributes:
        embeddings: (N, D) float64.
        start: (N,) int64, the first row of the class of each row.
        stop: (N,) int64, one past its last row.
    """

    embeddings: Tensor
    start: Tensor
    stop: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor) -> Self:
        """Order unit embeddings (N, D) by class, small classes first, so that padding to P stays short."""
        _, class_index, sizes = labels.unique(return_inverse=True, return_counts=True)
        by_size = sizes.argsort(stable=True)
        stops = sizes[by_size].cumsum(0)
        position = by_size.argsort()[class_index]
        order = position.argsort(stable=True)
        stop = stops[position[order]]
        return cls(embeddings[order].contiguous(), stop - sizes[class_index[order]], stop)

    @property
    def positives(self) -> Tensor:
        """(N,) int64: R, the number of positives of each row."""
        return self.stop - self.start - 1


def positive_similarities(gallery: Gallery, rows: Tensor) -> Tensor:
    """Similarities of the queries ``rows`` (B,) to their positives, (B, P), descending, padded with -inf."""
    start, stop = gallery.start[rows, None], gallery.stop[rows, None]
    first, last = int(start.min()), int(stop.max())
    columns = start + torch.arange(int((stop - start).max()), device=rows.device)
    is_positive = (columns < stop) & (columns != rows[:, None])
    block = gallery.embeddings[rows] @ gallery.embeddings[first:last].T
    similarities = block.gather(1, (columns - first).clamp(max=last - first - 1))
    ordered = similarities.masked_fill(~is_positive, -torch.inf).sort(dim=1, descending=True).values
    return ordered[:, :-1].contiguous()


class TorchRanker:
    """Exact ranks from tiles of the similarity matrix, on the device of the gallery."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        on_cpu = gallery.embeddings.device.type == "cpu"
        self.rows_at_once, self.columns_at_once = CPU_TILE if on_cpu else GPU_TILE

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        """Ranks, (B, P), of the positives of the queries ``rows``; the first is exact to any depth."""
        count, embeddings = positives.shape[1], self.gallery.embeddings
        start, stop = self.gallery.start[rows, None], self.gallery.stop[rows, None]
        first_class, last_class = int(start.min()), int(stop.max())
        queries = embeddings[rows]
        above_first = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
        hardest = queries.new_empty(len(rows), 0)
        tile = queries.new_empty(len(rows) * min(self.columns_at_once, len(embeddings)))
        for begin in range(0, len(embeddings), self.columns_at_once):
            references = embeddings[begin : begin + self.columns_at_once]
            end = begin + len(references)
            # One buffer for all tiles: fresh pages for each would cost as much as the product itself.
            similarities = tile[: len(rows) * len(references)].view(len(rows), len(references))
            torch.mm(queries, references.T, out=similarities)
            if begin < last_class and first_class < end:
                columns = torch.arange(begin, end, device=rows.device)
                similarities.masked_fill_((columns >= start) & (columns < stop), -torch.inf)
            above_first += (similarities >= positives[:, :1] - TIE).sum(dim=1, dtype=torch.int32)
            hardest = largest(torch.cat([hardest, largest(similarities, count)], dim=1), count)
        ranks = ranks_among(positives, hardest)
        ranks[:, 0] = 1 + above_first
        return ranks


def exact_similarities(gallery: Gallery, rows: Tensor, columns: Tensor) -> Tensor:
    """Similarities, (B, K) float64, of the queries ``rows`` (B,) to the references ``columns`` (B, K)."""
    embeddings = gallery.embeddings
    at_once = max(1, 2**22 // (columns.shape[1] * embeddings.shape[1]))  # 32 MB of gathered rows
    parts = [
        torch.bmm(embeddings[near], embeddings[some, :, None]).squeeze(2)
        for some, near in zip(rows.split(at_once), columns.split(at_once), strict=True)
    ]
    return torch.cat(parts)


def rounding(gallery: Gallery) -> float:
    """How far a float32 similarity may be off: both vectors, and a sum of D products, for vectors of length 1."""
    return (gallery.embeddings.shape[1] + 4) * 2.0**-24


def largest(values: Tensor, count: int) -> Tensor:
    """The ``count`` largest values of each row, in any order; all of them where there are fewer."""
    return values.topk(min(count, values.shape[1]), dim=1, sorted=False).values


def ranks_among(positives: Tensor, negatives: Tensor) -> Tensor:
    """Ranks (B, P) of positives (B, P), descending: negatives (B, K) at least as similar come before them."""
    smaller = torch.searchsorted(negatives.sort(dim=1).values, positives - TIE)
    place = torch.arange(1, positives.shape[1] + 1, device=positives.device)
    return place + negatives.shape[1] - smaller
