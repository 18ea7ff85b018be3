"""Exact ranks in half the time of float64 products: float32 where that decides, float64 where it does not."""

import torch
from torch import Tensor

from dmlbench.evaluation.neighbours import (
    CPU_TILE,
    TIE,
    Gallery,
    TorchRanker,
    exact_similarities,
    ranks_among,
    rounding,
)

BLOCK = (
    64  # references whose largest similarity is looked at first: dozens of blocks are searched faster than thousands
)
DOUBTFUL = 16  # references of a tile that a query is compared with again; one with more is left to float64 as a whole
SPARE = 4  # hard negatives kept beyond the R that decide, so that few queries are in doubt


class QuickRanker:
    """Exact ranks from float32 tiles of the similarity matrix, on a CPU.

    One pass over the references counts the negatives before the first positive, and collects the R hardest ones. A
    negative whose float32 similarity lies farther from a bound than rounding can move it is beyond it for sure; those
    in between are computed again in float64. A query for which that does not decide goes to :class:`TorchRanker`.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery, self.exact = gallery, TorchRanker(gallery)
        self.rows_at_once, columns = CPU_TILE
        self.columns_at_once = -(-columns // BLOCK) * BLOCK
        rest = -len(gallery.embeddings) % BLOCK
        self.singles = torch.nn.functional.pad(gallery.embeddings.float(), (0, 0, 0, rest))
        self.margin = rounding(gallery) + 2.0**-23  # and of the bounds themselves

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        """Ranks, (B, P), of the positives of the queries ``rows``; the first is exact to any depth."""
        parts = zip(rows.split(self.rows_at_once), positives.split(self.rows_at_once), strict=True)
        return torch.cat([self._ranks(*part) for part in parts]) if len(rows) else positives.long()

    def _ranks(self, rows: Tensor, positives: Tensor) -> Tensor:
        scan = _Scan(self, rows, positives)
        for begin in range(0, len(self.singles), self.columns_at_once):
            scan.tile(begin, self.singles[begin : begin + self.columns_at_once])
        columns = scan.columns.clamp(max=len(self.gallery.embeddings) - 1)  # what fills the last block is no reference
        negatives = exact_similarities(self.gallery, rows, columns).masked_fill(scan.hardest.isinf(), -torch.inf)
        ranks = ranks_among(positives, negatives)
        doubtful = (positives - TIE <= scan.bound + self.margin) & (ranks <= self.gallery.positives[rows, None])
        ranks[:, 0] = 1 + scan.above
        again = (doubtful.any(dim=1) | scan.given_up).nonzero().squeeze(1)
        if len(again):
            ranks[again] = self.exact(rows[again], positives[again])
        return ranks


class _Scan:
    """What is known of a block of queries after some of the references.

    Attributes:
        above: (B,) int64, negatives at least as similar as the first positive.
        hardest: (B, K) float32 similarities of the hardest negatives, in any order; -inf where there are fewer.
        columns: (B, K) int64, which they are.
        given_up: (B,) bool, queries among whose references float32 hardly tells any apart, as after a collapse.
        bound: (B, 1) float32: a negative that is not kept is no more similar, or before no positive.
    """

    def __init__(self, ranker: QuickRanker, rows: Tensor, positives: Tensor) -> None:
        self.gallery, self.rows, self.first = ranker.gallery, rows, positives[:, :1]
        self.start, self.stop = self.gallery.start[rows, None], self.gallery.stop[rows, None]
        self.queries = ranker.singles[rows]
        self.low, self.high = (self.first - ranker.margin).float(), (self.first + ranker.margin).float()
        last = positives.masked_fill(positives.isinf(), torch.inf).amin(dim=1, keepdim=True)
        self.bound = (last - 3 * ranker.margin).float()
        kept = len(rows), positives.shape[1] + SPARE
        self.above = torch.zeros(len(rows), dtype=torch.int64)
        self.hardest = torch.full(kept, -torch.inf, dtype=torch.float32)
        self.columns = torch.zeros(kept, dtype=torch.int64)
        self.given_up = torch.zeros(len(rows), dtype=torch.bool)
        # One buffer for all tiles: fresh pages for each would cost as much as the product itself.
        width = min(ranker.columns_at_once, len(ranker.singles))
        self._buffer = torch.empty(len(rows) * width, dtype=torch.float32)

    def tile(self, begin: int, references: Tensor) -> None:
        """Take in references (C, D) float32, which begin at the row ``begin`` of the gallery."""
        end, count = begin + len(references), len(self.gallery.embeddings)
        similarities = self._buffer[: len(self.rows) * len(references)].view(len(self.rows), len(references))
        torch.mm(self.queries, references.T, out=similarities)
        if begin < int(self.stop.max()) and int(self.start.min()) < end:
            columns = torch.arange(begin, end)
            similarities.masked_fill_((columns >= self.start) & (columns < self.stop), -torch.inf)
        similarities[:, max(count - begin, 0) :] = -torch.inf  # what fills the last block
        tops = similarities.view(len(self.rows), -1, BLOCK).amax(dim=2)
        highest = tops.amax(dim=1, keepdim=True)
        self._count((highest > self.low).nonzero()[:, 0], begin, similarities)  # may raise the bounds
        self._collect((highest > self.bound).nonzero()[:, 0], begin, similarities, tops)

    def _count(self, queries: Tensor, begin: int, similarities: Tensor) -> None:
        """Add the negatives at least as similar as the first positive."""
        some, low, high = similarities[queries], self.low[queries], self.high[queries]
        surely, maybe = _beyond(some, high), _beyond(some, low)
        self.above[queries] += surely
        self._give_up(queries[maybe - surely > DOUBTFUL])
        doubtful = ((maybe != surely) & (maybe - surely <= DOUBTFUL)).nonzero()[:, 0]
        if len(doubtful):
            near = (some[doubtful] > low[doubtful]) & (some[doubtful] <= high[doubtful])
            which, column = near.nonzero(as_tuple=True)
            query = queries[doubtful[which]]
            pairs = self.gallery.embeddings[self.rows[query]], self.gallery.embeddings[begin + column]
            exact = (pairs[0] * pairs[1]).sum(dim=1)
            self.above.index_add_(0, query, (exact >= self.first[query, 0] - TIE).long())

    def _give_up(self, queries: Tensor) -> None:
        """Look no further: nothing is above an infinite bound."""
        self.given_up[queries] = True
        for bound in (self.low, self.high, self.bound):
            bound[queries] = torch.inf

    def _collect(self, queries: Tensor, begin: int, similarities: Tensor, tops: Tensor) -> None:
        """Keep the hardest negatives: they are in the blocks with the highest tops."""
        kept = self.hardest.shape[1]
        blocks = tops[queries].topk(min(kept, tops.shape[1]), dim=1, sorted=False).indices
        columns = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK)).flatten(1)
        places = queries[:, None] * tops.shape[1] + blocks
        values = similarities.view(-1, BLOCK).index_select(0, places.flatten()).view(columns.shape)
        best = values.topk(min(kept, values.shape[1]), dim=1, sorted=False)
        values = torch.cat([self.hardest[queries], best.values], dim=1)
        columns = torch.cat([self.columns[queries], begin + columns.gather(1, best.indices)], dim=1)
        best = values.topk(kept, dim=1, sorted=False)
        self.hardest[queries], self.columns[queries] = best.values, columns.gather(1, best.indices)
        self.bound[queries] = torch.maximum(self.bound[queries], best.values.amin(dim=1, keepdim=True))


def _beyond(similarities: Tensor, bound: Tensor) -> Tensor:
    """How many of each row are above a bound, (B,) int64: flags in float32, and a product with ones.

    A comparison that writes bytes takes five times as long, and sums of 0 and 1 are exact.
    """
    flags = torch.empty_like(similarities)
    torch.gt(similarities, bound, out=flags)
    return (flags @ torch.ones(flags.shape[1], dtype=flags.dtype)).long()
