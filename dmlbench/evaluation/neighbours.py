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
class Search:
    """Queries and the references they search, both unit embeddings, ordered so that a class is one run of rows.

    Small classes come first, so that the padding of a few queries at a time stays short.

    Attributes:
        queries: (Q, D) float64.
        references: (N, D) float64; the same tensor where the queries search among themselves.
        start: (Q,) int64, the first reference of each query's class.
        stop: (Q,) int64, one past its last reference; the same as `start` where the class has none.
        own: (Q,) int64, the reference that is the query itself; -1 in a gallery, where none is.
    """

    queries: Tensor
    references: Tensor
    start: Tensor
    stop: Tensor
    own: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor, gallery: tuple[Tensor, Tensor] | None = None) -> Self:
        """Order unit embeddings (Q, D), labels (Q,), and those of a gallery, (N, D) and (N,), by class."""
        references, reference_labels = gallery or (embeddings, labels)
        classes, sizes = reference_labels.unique(return_counts=True)
        by_size = sizes.argsort(stable=True)
        stops = sizes[by_size].cumsum(0)[by_size.argsort()]

        def ordered(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            index = torch.searchsorted(classes, labels).clamp(max=len(classes) - 1)
            known = classes[index] == labels
            stop = stops[index].where(known, 0)
            order = stop.argsort(stable=True)
            return order, (stop - sizes[index].where(known, 0))[order], stop[order]

        order, start, stop = ordered(reference_labels)
        references = references[order].contiguous()
        if gallery is None:
            return cls(references, references, start, stop, torch.arange(len(labels), device=labels.device))
        order, start, stop = ordered(labels)
        return cls(embeddings[order], references, start, stop, torch.full_like(start, -1))

    @property
    def positives(self) -> Tensor:
        """(Q,) int64: R, the number of positives of each query."""
        return self.stop - self.start - (self.own >= 0).long()


def positive_similarities(search: Search, rows: Tensor) -> Tensor:
    """Similarities of the queries ``rows`` (B,) to their positives, (B, P), descending, padded with -inf."""
    start, stop = search.start[rows, None], search.stop[rows, None]
    first, last = int(start.min()), int(stop.max())
    columns = start + torch.arange(int((stop - start).max()), device=rows.device)
    is_positive = (columns < stop) & (columns != search.own[rows, None])
    block = search.queries[rows] @ search.references[first:last].T
    similarities = block.gather(1, (columns - first).clamp(max=last - first - 1))
    ordered = similarities.masked_fill(~is_positive, -torch.inf).sort(dim=1, descending=True).values
    return ordered[:, : int(search.positives[rows].max())].contiguous()


class TorchRanker:
    """Exact ranks from tiles of the similarity matrix, on the device of the embeddings."""

    def __init__(self, search: Search) -> None:
        self.search = search
        on_cpu = search.references.device.type == "cpu"
        self.rows_at_once, self.columns_at_once = CPU_TILE if on_cpu else GPU_TILE

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        """Ranks, (B, P), of the positives of the queries ``rows``; the first is exact to any depth."""
        count, search = positives.shape[1], self.search
        start, stop = search.start[rows, None], search.stop[rows, None]
        first_class, last_class = int(start.min()), int(stop.max())
        queries = search.queries[rows]
        above_first = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
        hardest = queries.new_empty(len(rows), 0)
        tile = queries.new_empty(len(rows) * min(self.columns_at_once, len(search.references)))
        for begin in range(0, len(search.references), self.columns_at_once):
            references = search.references[begin : begin + self.columns_at_once]
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


def largest(values: Tensor, count: int) -> Tensor:
    """The ``count`` largest values of each row, in any order; all of them where there are fewer."""
    return values.topk(min(count, values.shape[1]), dim=1, sorted=False).values


def ranks_among(positives: Tensor, negatives: Tensor) -> Tensor:
    """Ranks (B, P) of positives (B, P), descending: negatives (B, K) at least as similar come before them."""
    smaller = torch.searchsorted(negatives.sort(dim=1).values, positives - TIE)
    position = torch.arange(1, positives.shape[1] + 1, device=positives.device)
    return position + negatives.shape[1] - smaller
