"""Contrastive loss on sampled triplets."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import (
    check_choice,
    check_non_negative,
    check_positive,
    checked,
    checked_references,
    masked_mean,
    nan_where_broken,
    triplet_rows,
)
from dmlbench.losses.mining import distance_weighted_triplets, given_triplets


class ContrastiveLoss(nn.Module):
    """Pull positives within one margin, push negatives beyond another, by plain L2 distance.

    relu(d(a, p) - positive_margin) + relu(negative_margin - d(a, n)), averaged over the triplets, zeros
    included. Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006;
    on triplets, with unsquared distances, as in Roth et al., "Revisiting Training Strategies and
    Generalization Performance in Deep Metric Learning", ICML 2020.

    Args:
        positive_margin: Distance below which a positive costs nothing, >= 0.
        negative_margin: Distance beyond which a negative costs nothing, > 0.
        mining: "distance": one distance-weighted triplet per anchor.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(
        self,
        positive_margin: Annotated[float, Ge(0)] = 0.0,
        negative_margin: Annotated[float, Gt(0)] = 1.0,
        mining: Literal["distance"] = "distance",
    ) -> None:
        super().__init__()
        check_non_negative("positive_margin", positive_margin)
        check_positive("negative_margin", negative_margin)
        check_choice("mining", mining, ("distance",))
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
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
            if triplets is None:
                triplets, valid = distance_weighted_triplets(embeddings, labels, generator, references=others)
            else:
                triplets, valid = given_triplets(triplets, embeddings)
            anchor, positive, negative = triplet_rows(triplets, embeddings, others)
            # A norm, unlike a root of a sum, has a finite gradient at duplicates; as officially, 1e-6 is added to
            # every difference.
            too_far = functional.pairwise_distance(anchor, positive) - self.positive_margin
            too_near = self.negative_margin - functional.pairwise_distance(anchor, negative)
            return nan_where_broken(masked_mean(too_far.relu() + too_near.relu(), valid), embeddings)
