"""Supervised contrastive loss."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from dmlbench.losses.batch import (
    check_positive,
    checked,
    checked_references,
    nan_where_broken,
    pair_masks,
    reference_masks,
)


class SupConLoss(nn.Module):
    """Ask of each embedding that its class be likely under a softmax over all other embeddings of the batch.

    -log softmax(s / temperature) over the others, averaged over an anchor's positives and then over the batch, in which
    an anchor without a positive counts as 0, times temperature / base_temperature. Khosla et al., "Supervised
    Contrastive Learning", NeurIPS 2020, arXiv 2004.11362, the loss L_out; as the official code with one view of each
    image. As there, embeddings arrive normalised and are not normalised again.

    Args:
        temperature: Divides the similarities, > 0.
        base_temperature: Divides the loss, which is multiplied by `temperature`, > 0.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(
        self, temperature: Annotated[float, Gt(0)] = 0.1, base_temperature: Annotated[float, Gt(0)] = 0.07
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("base_temperature", base_temperature)
        self.temperature = temperature
        self.base_temperature = base_temperature

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
            generator: Unused: this loss draws nothing.
            references: L2-normalised float tensor (M, D): the batch forms pairs with these in place of itself.
            reference_labels: Integer tensor (M,) of the references.

        Raises:
            ValueError: If a shape, type or device is wrong.
        """
        embeddings, labels = checked(embeddings, labels)
        others = checked_references(embeddings, references, reference_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            similarity = embeddings @ (embeddings if others is None else others.embeddings).T
            masks = pair_masks(labels) if others is None else reference_masks(similarity.detach(), labels, others)
            positive, negative = masks
            logits = (similarity / self.temperature).masked_fill(~(positive | negative), -torch.inf)
            log_probability = logits.log_softmax(dim=1)
            total = torch.where(positive, log_probability, 0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
            return nan_where_broken(total.mean() * (-self.temperature / self.base_temperature), embeddings)
