"""Multi-Similarity loss with its own pair mining."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import (
    check_non_negative,
    check_positive,
    checked,
    checked_references,
    masked_mean,
    nan_where_broken,
    pair_masks,
    reference_masks,
)


class MultiSimilarityLoss(nn.Module):
    """Weigh each pair by its similarity and by those of its neighbours, after mining the informative pairs.

    A positive is kept if less similar than the hardest negative plus `epsilon`, a negative if more
    similar than the hardest positive minus `epsilon`. With s the cosine similarity of the kept pairs,
    log(1 + sum exp(-alpha (s - base))) / alpha + log(1 + sum exp(beta (s - base))) / beta, averaged over the
    anchors that keep both a positive and a negative. Wang, Han, Huang, Dong, Scott, "Multi-Similarity Loss
    with General Pair Weighting for Deep Metric Learning", CVPR 2019; averaged as in Roth et al., "Revisiting
    Training Strategies and Generalization Performance in Deep Metric Learning", ICML 2020.

    Args:
        alpha: Sharpness of the positive term, > 0.
        beta: Sharpness of the negative term, > 0.
        base: Similarity around which pairs are weighed.
        epsilon: Slack of the mining, a similarity >= 0.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(
        self,
        alpha: Annotated[float, Gt(0)] = 2.0,
        beta: Annotated[float, Gt(0)] = 40.0,
        base: float = 0.5,
        epsilon: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        check_positive("beta", beta)
        check_non_negative("epsilon", epsilon)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.epsilon = epsilon

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
            generator: Unused: this mining draws nothing.
            references: L2-normalised float tensor (M, D): the batch forms pairs with these in place of itself.
            reference_labels: Integer tensor (M,) of the references.

        Raises:
            ValueError: If a shape, type or device is wrong, or an index out of range (on a CPU).
        """
        embeddings, labels = checked(embeddings, labels)
        others = checked_references(embeddings, references, reference_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            similarity = embeddings @ (embeddings if others is None else others.embeddings).T
            masks = pair_masks(labels) if others is None else reference_masks(similarity.detach(), labels, others)
            positive, negative, active = self._mine(similarity.detach(), *masks)
            centred, log_sum = similarity - self.base, _log_one_plus_sum_exp if others is None else _with_one_more
            loss = log_sum(centred * -self.alpha, positive) / self.alpha
            loss = loss + log_sum(centred * self.beta, negative) / self.beta
            return nan_where_broken(masked_mean(loss, active), embeddings)

    def _mine(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the kept positive and negative pairs (N, M) and the anchors that keep any (N,)."""
        hardest_positive = torch.where(positive, similarity, torch.inf).amin(dim=1, keepdim=True)
        hardest_negative = torch.where(negative, similarity, -torch.inf).amax(dim=1, keepdim=True)
        kept_positive = positive & (similarity < hardest_negative + self.epsilon)
        kept_negative = negative & (similarity > hardest_positive - self.epsilon)
        # An anchor keeps a positive exactly if it keeps a negative: their hardest meet within epsilon.
        return kept_positive, kept_negative, (hardest_positive < hardest_negative + self.epsilon).squeeze(1)


def _log_one_plus_sum_exp(logits: Tensor, mask: Tensor) -> Tensor:
    """Return log(1 + the sum of exp over the mask) for each row (N,), whatever the size of the logits."""
    # The diagonal is no pair. As the term exp(0) = 1 it makes the row a cross-entropy with itself as the target,
    # for which there are faster kernels than for logsumexp.
    floor = torch.full_like(logits, -torch.inf).fill_diagonal_(0)
    itself = torch.arange(len(logits), device=logits.device)
    return functional.cross_entropy(torch.where(mask, logits, floor), itself, reduction="none")


def _with_one_more(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the same (N,) of logits (N, M) to references, of which each may be in a pair: a column of 0 is the one."""
    pairs = functional.pad(torch.where(mask, logits, -torch.inf), (1, 0))
    return functional.cross_entropy(pairs, logits.new_zeros(len(logits), dtype=torch.int64), reduction="none")
