"""Ranks that have a gradient."""

import torch
from torch import Tensor


def soft_ranks(similarity: Tensor, same: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Rank every row of a batch for every query by smooth comparisons: 1 + the sum of sigmoid(gap / temperature).

    The query itself is one of the rows that others are compared with, as in the official codes of Smooth-AP (Brown et
    al. 2020) and of the Recall@k surrogate (Patel et al. 2022). Memory grows as N^3: 6 MB at a batch of 112, 4 GB at
    one of 1,000, in forward and in backward.

    Args:
        similarity: Of query (row) and item (column), (N, N).
        same: Whether two rows are of one class, (N, N), with the diagonal.
        temperature: Similarity gap over which a comparison is undecided, > 0.

    Returns:
        Ranks (N, N) of each query's items among all rows, and among those of the query's class.
    """
    scaled = similarity / temperature
    ahead = (scaled[:, None, :] - scaled[:, :, None]).sigmoid_()  # of each query and item: is the other ahead of it?
    counted = torch.stack([torch.ones_like(scaled), same.to(scaled.dtype)], dim=2)
    among_all, among_same = (ahead @ counted).unbind(dim=2)
    # An item is not compared with itself: that sigmoid is a constant 1/2.
    return among_all + 0.5, among_same + 1 - 0.5 * same.to(scaled.dtype)
