"""Margin loss with a learned boundary per class."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from dmlbench.losses.batch import (
    check_choice,
    check_count,
    check_positive,
    checked,
    checked_references,
    nan_where_broken,
    rows_of,
    triplet_rows,
)
from dmlbench.losses.mining import distance_weighted_triplets, given_triplets


class MarginLoss(nn.Module):
    """Keep positives inside and negatives outside a boundary beta, each by a margin, in L2 distance.

    relu(d(a, p) - beta + margin) + relu(beta - d(a, n) + margin), summed over the triplets and divided by the
    number of triplets in which either term is positive; beta belongs to the anchor's class and is learned.
    Wu, Manmatha, Smola, Krahenbuhl, "Sampling Matters in Deep Embedding Learning", ICCV 2017; normalised
    as in Roth et al., "Revisiting Training Strategies and Generalization Performance in Deep Metric
    Learning", ICML 2020.

    Args:
        num_classes: Number of training classes, >= 1; labels lie in [0, num_classes).
        margin: Distance kept from the boundary on either side, > 0.
        beta: Initial boundary of every class, a distance > 0.
        mining: "distance": one distance-weighted triplet per anchor.

    Attributes:
        beta: Learned boundaries (num_classes,).

    Raises:
        ValueError: If a parameter is out of range.
    """

    LEARNED = ("beta",)

    def __init__(
        self,
        num_classes: int,
        margin: Annotated[float, Gt(0)] = 0.2,
        beta: Annotated[float, Gt(0)] = 1.2,
        mining: Literal["distance"] = "distance",
    ) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        check_positive("margin", margin)
        check_positive("beta", beta)
        check_choice("mining", mining, ("distance",))
        self.margin = margin
        self.mining = mining
        self.beta = nn.Parameter(torch.full((num_classes,), float(beta)))

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
            labels: Integer tensor (N,) in [0, num_classes).
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
            beta = rows_of(self.beta[:, None], labels[triplets[:, 0]], "labels").squeeze(1)
            inside = (_distance(anchor, positive) - beta + self.margin).relu()
            outside = (beta - _distance(anchor, negative) + self.margin).relu()
            loss = inside + outside
            active = valid & (loss > 0)
            mean = torch.where(active, loss, 0).sum() / active.sum().clamp(min=1)
            return nan_where_broken(mean, embeddings)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    # The official constant under the root keeps the gradient finite at duplicates.
    return ((one - other).square().sum(1) + 1e-8).sqrt()
