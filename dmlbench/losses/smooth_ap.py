"""Smooth-AP loss."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from dmlbench.losses.batch import check_positive, checked, masked_mean, nan_where_broken, pair_masks
from dmlbench.losses.ranks import soft_ranks


class SmoothAPLoss(nn.Module):
    """Maximise each query's average precision over the batch, with smooth ranks.

    One less the mean, over the members of the query's class, of their rank within the class divided by their rank
    within the batch, averaged over the queries that have a positive and a negative. Brown, Xie, Kalogeiton, Zisserman,
    "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV 2020; as in the official code the query
    itself is among the ranked members of its class, and embeddings arrive normalised.

    Args:
        temperature: Of the sigmoid that compares two similarities, > 0.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 0.01) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,  # noqa: ARG002 - every loss is called alike
    ) -> Tensor:
        """Return the loss, a scalar; memory grows with N^3.

        Args:
            embeddings: L2-normalised float tensor (N, D).
            labels: Integer tensor (N,).
            generator: Unused: this loss draws nothing.

        Raises:
            ValueError: If a shape, type or device is wrong.
        """
        embeddings, labels = checked(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            positive, negative = pair_masks(labels)
            among_all, among_same = soft_ranks(embeddings @ embeddings.T, ~negative, self.temperature)
            precision = torch.where(negative, 0, among_same / among_all).sum(dim=1) / (~negative).sum(dim=1)
            ranked = positive.any(dim=1) & negative.any(dim=1)
            return nan_where_broken(masked_mean(1 - precision, ranked), embeddings)
