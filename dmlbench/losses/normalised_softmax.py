"""Normalised softmax loss."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import check_positive, checked
from dmlbench.losses.proxies import check_dimensions, check_sizes, class_cross_entropy


class NormalisedSoftmaxLoss(nn.Module):
    """Classify each embedding by its cosine similarities to one learned proxy per class.

    The mean cross-entropy of logits x.p / temperature, with p of unit length. Zhai, Wu, "Classification is a Strong
    Baseline for Deep Metric Learning", BMVC 2019, arXiv 1811.12649. As in the official code, the proxies are normalised
    inside the loss, and the embeddings, which arrive normalised, are not.

    Args:
        num_classes: Number of training classes, >= 1; labels lie in [0, num_classes).
        embedding_dim: Size of an embedding, >= 1.
        temperature: Divides the similarities, > 0.

    Attributes:
        proxies: Learned proxies (num_classes, embedding_dim), uniform within 1 / sqrt(embedding_dim) at first.

    Raises:
        ValueError: If a parameter is out of range.
    """

    LEARNED = ("proxies",)

    def __init__(self, num_classes: int, embedding_dim: int, temperature: Annotated[float, Gt(0)] = 0.05) -> None:
        super().__init__()
        check_sizes(num_classes, embedding_dim)
        check_positive("temperature", temperature)
        self.temperature = temperature
        bound = embedding_dim**-0.5
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim).uniform_(-bound, bound))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,  # noqa: ARG002 - every loss is called alike
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            embeddings: L2-normalised float tensor (N, embedding_dim).
            labels: Integer tensor (N,) in [0, num_classes).
            generator: Unused: this loss draws nothing.

        Raises:
            ValueError: If a shape, type or device is wrong, or a label out of range (on a CPU).
        """
        embeddings, labels = checked(embeddings, labels)
        check_dimensions(embeddings, self.proxies)
        with torch.autocast(embeddings.device.type, enabled=False):
            proxies = functional.normalize(self.proxies.to(embeddings.dtype))
            return class_cross_entropy((embeddings / self.temperature) @ proxies.T, labels)
