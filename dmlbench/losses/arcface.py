"""ArcFace loss."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import check_non_negative, check_positive, checked
from dmlbench.losses.proxies import check_dimensions, check_sizes, class_cross_entropy, own_logits


class ArcFaceLoss(nn.Module):
    """Classify each embedding by its cosine similarities to learned proxies, the true angle plus a margin.

    The mean cross-entropy of logits scale * cos(theta), and scale * cos(theta + margin) for the true class; where
    theta + margin exceeds pi, scale * (cos(theta) - margin sin(margin)) keeps the loss decreasing. Deng, Guo, Xue,
    Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, arXiv 1801.07698; as in
    pytorch-metric-learning, whose implementation the Reality Check (Musgrave et al. 2020, arXiv 2003.08505) measured,
    embeddings and proxies are normalised inside the loss. There the gradient is infinite where an embedding equals its
    proxy; here it stays finite.

    Args:
        num_classes: Number of training classes, >= 1; labels lie in [0, num_classes).
        embedding_dim: Size of an embedding, >= 1.
        margin: What the angle to the true class's proxy is widened by, in radians, >= 0 and < 3.14.
        scale: Multiplies the cosines, > 0.

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
        margin: Annotated[float, Ge(0), Lt(3.14)] = 0.5,
        scale: Annotated[float, Gt(0)] = 16.0,
    ) -> None:
        super().__init__()
        check_sizes(num_classes, embedding_dim)
        check_non_negative("margin", margin)
        if margin >= 3.14:
            raise ValueError(f"margin is in radians and must be below 3.14, got {margin}")
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
            own = own_logits(logits, labels) / self.scale
            widened = logits.scatter(1, labels[:, None], self.scale * self._widened(own))
            return class_cross_entropy(widened, labels)

    def _widened(self, cosine: Tensor) -> Tensor:
        """Return the cosine (N, 1) of the angle plus the margin, or its extension beyond pi."""
        # The sum formula needs no angle; the floor keeps the root's gradient finite at a cosine of 1.
        sine = (1 - cosine.square()).clamp(min=1e-6).sqrt()
        within = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine >= -math.cos(self.margin), within, beyond)
