"""Contrastive loss on cosine similarities of all pairs."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from dmlbench.losses.batch import References, checked, checked_references, nan_where_broken, reference_masks


class CosineContrastiveLoss(nn.Module):
    """Raise the similarity of all positive pairs, lower that of negative pairs above a margin.

    With s the cosine similarity, the sum of 1 - s over positive pairs plus the sum of s over negative pairs with
    s > margin, divided by the images of the batch. A positive more similar than 1 - 1e-5 is left out: it is the image
    itself. Wang, Zhang, Huang, Scott, "Cross-Batch Memory for Embedding Learning", CVPR 2020, as their official code
    computes it.

    Args:
        margin: Similarity up to which a negative costs nothing, in [0, 1).

    Raises:
        ValueError: If the margin is out of range.
    """

    def __init__(self, margin: Annotated[float, Ge(0), Lt(1)] = 0.5) -> None:
        super().__init__()
        if not 0 <= margin < 1:
            raise ValueError(f"margin must lie in [0, 1), got {margin}")
        self.margin = margin

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,  # noqa: ARG002 - every loss is called alike
        *,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            embeddings: L2-normalised float tensor (N, D).
            labels: Integer tensor (N,).
            generator: Unused: nothing is drawn.
            references: L2-normalised float tensor (M, D): the batch forms pairs with these in place of itself.
            reference_labels: Integer tensor (M,) of the references.

        Raises:
            ValueError: If a shape, type or device is wrong.
        """
        embeddings, labels = checked(embeddings, labels)
        others = checked_references(embeddings, references, reference_labels) or References(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            similarity = embeddings @ others.embeddings.T
            positive, negative = reference_masks(similarity.detach(), labels, others)
            costs = torch.where(positive, 1 - similarity, 0.0)
            costs = costs + torch.where(negative & (similarity > self.margin), similarity, 0.0)
            return nan_where_broken(costs.sum() / len(embeddings), embeddings)
