"""ProxyNCA++ loss."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import check_positive, checked
from dmlbench.losses.proxies import check_dimensions, check_sizes, class_cross_entropy


class ProxyNCAPlusPlusLoss(nn.Module):
    """Classify each embedding by its squared distances to one learned proxy per class.

    The mean cross-entropy of logits -|scale x - scale p|^2, with x and p of unit length: the true class's proxy is in
    the denominator, which it was not in ProxyNCA. Teh, DeVries, Taylor, "ProxyNCA++: Revisiting and Revitalizing Proxy
    Neighborhood Component Analysis", arXiv 2004.01113. As in the official code, embeddings and proxies are normalised
    inside the loss. Of the paper's other parts (pooling, layer norm, the proxies' rate) a loss holds none.

    Args:
        num_classes: Number of training classes, >= 1; labels lie in [0, num_classes).
        embedding_dim: Size of an embedding, >= 1.
        scale: Length that embeddings and proxies are scaled to, > 0; the temperature is 1 / scale^2.

    Attributes:
        proxies: Learned proxies (num_classes, embedding_dim), normal with standard deviation 1/8 at first.

    Raises:
        ValueError: If a parameter is out of range.
    """

    LEARNED = ("proxies",)

    def __init__(self, num_classes: int, embedding_dim: int, scale: Annotated[float, Gt(0)] = 3.0) -> None:
        super().__init__()
        check_sizes(num_classes, embedding_dim)
        check_positive("scale", scale)
        self.scale = scale
        self.proxies = nn.Parameter(torch.randn(num_classes, embedding_dim) / 8)

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
            # Between unit vectors |x - p|^2 = 2 - 2 x.p, and the cross-entropy does not see a constant.
            scaled = functional.normalize(embeddings) * (2 * self.scale**2)
            logits = scaled @ functional.normalize(self.proxies.to(scaled.dtype)).T
            return class_cross_entropy(logits, labels)
