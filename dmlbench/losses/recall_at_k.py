"""Recall@k surrogate loss."""

import re
from typing import Annotated

import torch
from annotated_types import Gt
from pydantic import StringConstraints
from torch import Tensor, nn

from dmlbench.losses.batch import check_positive, checked, masked_mean, nan_where_broken, pair_masks
from dmlbench.losses.ranks import soft_ranks


class RecallAtKLoss(nn.Module):
    """Maximise each query's recall at several k over the batch, with smooth ranks and a smooth cut at k.

    One less the recall, averaged over `ks` and then over the queries that have a positive and a negative: the sum of
    sigmoid((k - rank) / k_temperature) over the positives, at most k, divided by min(k, positives). Patel, Tolias,
    Matas, "Recall@k Surrogate Loss with Large Batches and Similarity Mixup", CVPR 2022, arXiv 2108.11179; without the
    mixup and without the official code's batches of thousands in two passes. As there the query itself is ranked before
    its positives, so that the best rank of a positive is 2, and embeddings arrive normalised.

    Args:
        ks: Whole numbers above 0 with commas, e.g. "1,2,4".
        temperature: Of the sigmoid that compares two similarities, > 0.
        k_temperature: Of the sigmoid that compares a rank with k, in ranks, > 0.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(
        self,
        ks: Annotated[str, StringConstraints(pattern=r"^[1-9]\d*(,[1-9]\d*)*$")] = "1,2,4,8,16",
        temperature: Annotated[float, Gt(0)] = 0.01,
        k_temperature: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(ks, str) or not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", ks):
            raise ValueError(f"ks must be whole numbers above 0, with commas, got {ks!r}")
        check_positive("temperature", temperature)
        check_positive("k_temperature", k_temperature)
        self.ks, self.temperature, self.k_temperature = ks, temperature, k_temperature

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
            ranks, _ = soft_ranks(embeddings @ embeddings.T, ~negative, self.temperature)
            recalls = [self._recall(ranks, positive, min(int(k), len(labels))) for k in self.ks.split(",")]
            ranked = positive.any(dim=1) & negative.any(dim=1)
            return nan_where_broken(masked_mean(1 - torch.stack(recalls).mean(dim=0), ranked), embeddings)

    def _recall(self, ranks: Tensor, positive: Tensor, k: int) -> Tensor:
        """Return each query's smooth recall at k (N,)."""
        within = ((k - ranks) / self.k_temperature).sigmoid()
        found = torch.where(positive, within, 0).sum(dim=1).clamp(max=k)
        return found / positive.sum(dim=1).clamp(min=1, max=k)
