"""Triplet loss on squared distances."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from dmlbench.losses.batch import (
    check_choice,
    check_positive,
    checked,
    checked_references,
    masked_mean,
    nan_where_broken,
    triplet_rows,
)
from dmlbench.losses.mining import distance_weighted_triplets, given_triplets, semihard_triplets


class TripletLoss(nn.Module):
    """Ask that a negative be farther than the positive by a margin, in SQUARED L2 distance.

    relu(d(a, p)^2 - d(a, n)^2 + margin), averaged over the triplets, zeros included. Schroff, Kalenichenko,
    Philbin, "FaceNet", CVPR 2015; mined as in Roth et al., "Revisiting Training Strategies and Generalization
    Performance in Deep Metric Learning", ICML 2020.

    Args:
        margin: Wanted gap between the squared distances, > 0.
        mining: "distance": one distance-weighted triplet per anchor. "semihard": one semi-hard triplet per
            anchor, `margin` then also being the width, in plain distance, of the semi-hard band.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(
        self, margin: Annotated[float, Gt(0)] = 0.2, mining: Literal["distance", "semihard"] = "distance"
    ) -> None:
        super().__init__()
        check_positive("margin", margin)
        check_choice("mining", mining, ("distance", "semihard"))
        self.margin = margin
        self.mining = mining

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        triplets: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            embeddings: L2-normalised float tensor (N, D).
            labels: Integer tensor (N,).
            triplets: int64 tensor (n, 3) of rows (anchor, positive, negative), in place of mining.
            generator: Randomness of the mining, on the embeddings' device.
            references: L2-normalised float tensor (M, D): positives and negatives are of these, anchors of the batch.
            reference_labels: Integer tensor (M,) of the references.

        Raises:
            ValueError: If a shape, type or device is wrong, or an index out of range (on a CPU).
        """
        embeddings, labels = checked(embeddings, labels)
        others = checked_references(embeddings, references, reference_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            if triplets is not None:
                triplets, valid = given_triplets(triplets, embeddings)
            elif self.mining == "semihard":
                triplets, valid = semihard_triplets(embeddings, labels, self.margin, generator, references=others)
            else:
                triplets, valid = distance_weighted_triplets(embeddings, labels, generator, references=others)
            anchor, positive, negative = triplet_rows(triplets, embeddings, others)
            gap = (anchor - positive).square().sum(1) - (anchor - negative).square().sum(1)
            return nan_where_broken(masked_mean((gap + self.margin).relu(), valid), embeddings)
