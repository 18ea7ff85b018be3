"""CosFace loss."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import check_non_negative, check_positive, checked
from dmlbench.losses.proxies import add_to_own_, check_dimensions, check_sizes, class_cross_entropy


class CosFaceLoss(nn.Module):
    """Classify each embedding by its cosine similarities to learned proxies, the true one less a margin.

    The mean cross-entropy of logits scale * s, and scale * (s - margin) for the true class. Wang et al., "CosFace:
    Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, arXiv 1801.09414; as in pytorch-metric-learning,
    whose implementation the Reality Check (Musgrave et al. 2020, arXiv 2003.08505) measured, embeddings and proxies are
    normalised inside the loss.

    Args:
        num_classes: Number of training classes, >= 1; labels lie in [0, num_classes).
        embedding_dim: Size of an embedding, >= 1.
        margin: What the true class's similarity is lowered by, >= 0.
        scale: Multiplies the similarities, > 0.

    Attributes:
        proxies: Learned proxies (num_classes, embedding_dim), standard normal at first.

    Raises:
        ValueError: If a parameter is out of range.
    """

    LEARNED = ("proxies",)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        margin: Annotated[float, Ge(0)] = 0.35,
        scale: Annotated[float, Gt(0)] = 64.0,
    ) -> None:
        super().__init__()
        check_sizes(num_classes, embedding_dim)
        check_non_negative("margin", margin)
        check_positive("scale", scale)
        self.margin = margin
        self.scale = scale
        self.proxies = nn.Parameter(torch.randn(num_classes, embedding_dim))

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
            ValueError: If a shape, type or device is wrong, or a label out of range (on a CPU).
        """
        embeddings, labels = checked(embeddings, labels)
        check_dimensions(embeddings, self.proxies)
        with torch.autocast(embeddings.device.type, enabled=False):
            scaled = functional.normalize(embeddings) * self.scale
            logits = scaled @ functional.normalize(self.proxies.to(scaled.dtype)).T
            return class_cross_entropy(add_to_own_(logits, labels, -self.scale * self.margin), labels)
