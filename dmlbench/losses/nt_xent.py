"""NT-Xent loss with labels."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import (
    check_positive,
    checked,
    checked_references,
    nan_where_broken,
    pair_masks,
    reference_masks,
)


class NTXentLoss(nn.Module):
    """Ask that each positive pair be likelier than the anchor's negatives under a softmax.

    With s the cosine similarity divided by `temperature`, log(1 + sum exp(s(a, n) - s(a, p))) over the anchor's
    negatives n, averaged over all positive pairs (a, p): the other positives take no part in the softmax. Chen,
    Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
    arXiv 2002.05709; with labels, and normalised inside the loss, as in pytorch-metric-learning, whose implementation
    the Reality Check (Musgrave et al. 2020, arXiv 2003.08505) measured. There no pair's loss exceeds 87, where float32
    underflows and the gradient becomes 0; here it has no limit.

    Args:
        temperature: Divides the similarities, > 0.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(self, temperature: Annotated[float, Gt(0)] = 0.07) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature

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
            embeddings: Float tensor (N, D).
            labels: Integer tensor (N,).
            generator: Unused: this loss draws nothing.
            references: Float tensor (M, D): the batch forms pairs with these in place of itself.
            reference_labels: Integer tensor (M,) of the references.

        Raises:
            ValueError: If a shape, type or device is wrong.
        """
        embeddings, labels = checked(embeddings, labels)
        others = checked_references(embeddings, references, reference_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = functional.normalize(embeddings)
            similarity = unit @ (unit if others is None else functional.normalize(others.embeddings)).T
            masks = pair_masks(labels) if others is None else reference_masks(similarity.detach(), labels, others)
            positive, negative = masks
            logits = similarity / self.temperature
            negatives = logits.masked_fill(~negative, -torch.inf).logsumexp(dim=1, keepdim=True)
            pairs = torch.where(positive, functional.softplus(negatives - logits), 0)
            return nan_where_broken(pairs.sum() / positive.sum().clamp(min=1), embeddings)
