"""Proxy-Anchor loss."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import check_count, check_non_negative, check_positive, checked, pair_masks
from dmlbench.losses.proxies import refuse_labels


class ProxyAnchorLoss(nn.Module):
    """Let one learned proxy per class pull the batch's members of its class and push all others.

    With s the cosine similarity of embedding and proxy: log(1 + sum exp(-alpha (s - delta))) over a class's
    members, averaged over the classes present in the batch, plus log(1 + sum exp(alpha (s + delta))) over the
    others, averaged over all classes. Kim, Kim, Cho, Kwak, "Proxy Anchor Loss for Deep Metric Learning", CVPR
    2020. As in the official code, embeddings and proxies are normalised inside the loss.

    Args:
        num_classes: Number of training classes, >= 1; labels lie in [0, num_classes).
        embedding_dim: Size of an embedding, >= 1.
        alpha: Sharpness, > 0; alpha * (1 + delta) <= 80 so that no exponential overflows.
        delta: Margin, a similarity >= 0.

    Attributes:
        proxies: Learned proxies (num_classes, embedding_dim), Kaiming-normal (fan-out) at first.

    Raises:
        ValueError: If a parameter is out of range.
    """

    LEARNED = ("proxies",)
    # exp(80) times a batch of 6,000 is the last sum below float32's largest number.
    AT_MOST = {"alpha * (1 + delta)": 80}  # noqa: RUF012 - a constant, also read without torch

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        alpha: Annotated[float, Gt(0)] = 32.0,
        delta: Annotated[float, Ge(0)] = 0.1,
    ) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        check_count("embedding_dim", embedding_dim)
        check_positive("alpha", alpha)
        check_non_negative("delta", delta)
        if alpha * (1 + delta) > 80:
            raise ValueError(f"alpha * (1 + delta) must be at most 80, got {alpha * (1 + delta)}")
        self.alpha = alpha
        self.delta = delta
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,  # noqa: ARG002 - every loss is called alike
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            embeddings: Float tensor (N, embedding_dim).
            labels: Integer tensor (N,) in [0, num_classes).
            generator: Unused: this loss draws nothing.

        Raises:
            ValueError: If a shape, type or device is wrong, or an index out of range (on a CPU).
        """
        embeddings, labels = checked(embeddings, labels)
        if embeddings.shape[1] != self.proxies.shape[1]:
            raise ValueError(f"embeddings must have {self.proxies.shape[1]} dimensions, got {embeddings.shape[1]}")
        with torch.autocast(embeddings.device.type, enabled=False):
            # |s| <= 1 bounds every exponent, so no maximum is subtracted: with thousands of proxies each pass
            # over the (N, num_classes) matrix counts, and scaling the embeddings saves one more.
            scaled = functional.normalize(embeddings) * self.alpha
            logits = scaled @ functional.normalize(self.proxies.to(scaled.dtype)).T
            own = labels[:, None]
            try:
                mine = logits.gather(1, own).squeeze(1)
            except RuntimeError as error:  # on CUDA, PyTorch's own assertion
                refuse_labels(error, len(self.proxies))
                raise
            pull = self._pull(mine, labels)
            others = logits.scatter(1, own, -torch.inf).exp_().sum(dim=0)
            push = (others * math.exp(self.alpha * self.delta)).log1p().mean()
            return pull + push

    def _pull(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the positive term from each embedding's logit (N,) with its own proxy."""
        positive, _ = pair_masks(labels)
        same = positive.fill_diagonal_(fill_value=True)
        exponentials = (self.alpha * self.delta - logits).exp()
        per_class = torch.where(same, exponentials, 0).sum(dim=1).log1p()
        # A class of k members shows up in k rows: each carries 1 / k of it.
        share = same.sum(dim=1).to(logits.dtype).reciprocal()
        return (per_class * share).sum() / share.sum()
