"""Circle loss on pairs."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import check_non_negative, check_positive, checked, nan_where_broken, pair_masks


class CircleLoss(nn.Module):
    """Weigh every similarity by its distance from the optimum, and set all positive pairs against all negative ones.

    softplus(log sum exp(-gamma a_p (s_p - 1 + m)) + log sum exp(gamma a_n (s_n - m))) over the positive and the
    negative pairs of the whole batch, each pair once, with the weights a_p = relu(1 + m - s_p) and a_n = relu(s_n + m),
    which get no gradient. Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020,
    arXiv 2002.10857; no official code was found, and this is what the unofficial TinyZeaMays/CircleLoss computes
    (pytorch-metric-learning makes a loss of each anchor's pairs). Embeddings arrive normalised and are not normalised
    again.

    Args:
        m: Relaxation; the optima are 1 + m and -m, the boundary lies at 1 - m and m, >= 0.
        gamma: Sharpness, > 0.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(self, m: Annotated[float, Ge(0)] = 0.4, gamma: Annotated[float, Gt(0)] = 80.0) -> None:
        super().__init__()
        check_non_negative("m", m)
        check_positive("gamma", gamma)
        self.m = m
        self.gamma = gamma

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,  # noqa: ARG002 - every loss is called alike
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            embeddings: L2-normalised float tensor (N, D).
            labels: Integer tensor (N,).
            generator: Unused: this loss draws nothing.

        Raises:
            ValueError: If a shape, type or device is wrong.
        """
        embeddings, labels = checked(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            similarity = embeddings @ embeddings.T
            positive, negative = (mask.triu(diagonal=1) for mask in pair_masks(labels))
            held = similarity.detach()
            pulled = (1 + self.m - held).relu() * (1 - self.m - similarity) * self.gamma
            pushed = (held + self.m).relu() * (similarity - self.m) * self.gamma
            loss = functional.softplus(_log_sum_exp(pulled, positive) + _log_sum_exp(pushed, negative))
            return nan_where_broken(loss, embeddings)


def _log_sum_exp(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the logarithm of the sum of exp over the mask, a scalar; minus infinity, with gradient 0, over none."""
    return torch.where(mask, logits, -torch.inf).flatten().logsumexp(dim=0)
