"""Circle loss on pairs."""

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
    pair_masks,
    reference_masks,
)


class CircleLoss(nn.Module):
    """Weigh every similarity by its distance from the optimum, and set positive pairs against negative ones.

    softplus(log sum exp(-gamma a_p (s_p - 1 + m)) + log sum exp(gamma a_n (s_n - m))) over positive and negative pairs,
    with the weights a_p = relu(1 + m - s_p) and a_n = relu(s_n + m), which get no gradient. Sun et al., "Circle Loss: A
    Unified Perspective of Pair Similarity Optimization", CVPR 2020, arXiv 2002.10857. No official code was found, and
    implementations differ in the pairs that one sum is over: the pairs of an anchor, as pytorch-metric-learning and the
    paper's definition for a single sample, with the mean over the anchors whose loss is not 0; or all pairs of the
    batch, each once, as the unofficial TinyZeaMays/CircleLoss. Embeddings arrive normalised and are not normalised
    again.

    Args:
        m: Relaxation; the optima are 1 + m and -m, the boundary lies at 1 - m and m, >= 0.
        gamma: Sharpness, > 0.
        over: "anchor": a loss of each anchor's pairs. "batch": one loss of all pairs.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(
        self,
        m: Annotated[float, Ge(0)] = 0.4,
        gamma: Annotated[float, Gt(0)] = 80.0,
        over: Literal["anchor", "batch"] = "anchor",
    ) -> None:
        super().__init__()
        check_non_negative("m", m)
        check_positive("gamma", gamma)
        check_choice("over", over, ("anchor", "batch"))
        self.m = m
        self.gamma = gamma
        self.over = over

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
            if self.over == "batch" and others is None:  # a batch with itself has each pair twice
                positive, negative = positive.triu(), negative.triu()
            held = similarity.detach()
            pulled = torch.where(positive, (1 + self.m - held).relu() * (1 - self.m - similarity), -torch.inf)
            pushed = torch.where(negative, (held + self.m).relu() * (similarity - self.m), -torch.inf)
            pairs = (0, 1) if self.over == "batch" else 1
            sums = (self.gamma * pulled).logsumexp(dim=pairs) + (self.gamma * pushed).logsumexp(dim=pairs)
            loss = functional.softplus(sums)
            return nan_where_broken(masked_mean(loss, loss > 0), embeddings)
