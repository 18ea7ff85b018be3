"""SoftTriple loss."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.losses.batch import check_count, check_non_negative, check_positive, checked
from dmlbench.losses.proxies import add_to_own_, check_dimensions, check_sizes, class_cross_entropy


class SoftTripleLoss(nn.Module):
    """Classify each embedding by its similarities to classes that have several learned centres each.

    A class's similarity is the mean over its centres, weighted by the softmax of their cosine similarities divided by
    `gamma`; the loss is the mean cross-entropy of `scale` times it, less `margin` for the true class, plus `tau` times
    a regulariser that draws a class's centres together: the sum of sqrt(2 - 2 cos) over the pairs of centres of each
    class, divided by num_classes K (K - 1). Qian, Shang, Sun, Hu, Li, Jin, "SoftTriple Loss: Deep Metric Learning
    Without Triplet Sampling", ICCV 2019, arXiv 1909.05235. As in the official code, the centres are normalised inside
    the loss, and the embeddings, which arrive normalised, are not.

    Args:
        num_classes: Number of training classes, >= 1; labels lie in [0, num_classes).
        embedding_dim: Size of an embedding, >= 1.
        centres_per_class: K of the paper, >= 1.
        scale: Lambda of the paper, multiplies the similarities, > 0.
        gamma: Temperature of the weights over centres, > 0.
        tau: Weight of the regulariser, >= 0.
        margin: Delta of the paper, a similarity >= 0.

    Attributes:
        centres: Learned centres (num_classes * centres_per_class, embedding_dim), a class's one after the other,
            uniform within 1 / sqrt(their number) at first.

    Raises:
        ValueError: If a parameter is out of range.
    """

    LEARNED = ("centres",)

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        centres_per_class: Annotated[int, Ge(1)] = 10,
        scale: Annotated[float, Gt(0)] = 20.0,
        gamma: Annotated[float, Gt(0)] = 0.1,
        tau: Annotated[float, Ge(0)] = 0.2,
        margin: Annotated[float, Ge(0)] = 0.01,
    ) -> None:
        super().__init__()
        check_sizes(num_classes, embedding_dim)
        check_count("centres_per_class", centres_per_class)
        check_positive("scale", scale)
        check_positive("gamma", gamma)
        check_non_negative("tau", tau)
        check_non_negative("margin", margin)
        self.centres_per_class = centres_per_class
        self.scale, self.gamma, self.tau, self.margin = scale, gamma, tau, margin
        count = num_classes * centres_per_class
        self.centres = nn.Parameter(torch.empty(count, embedding_dim).uniform_(-(count**-0.5), count**-0.5))

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
        check_dimensions(embeddings, self.centres)
        with torch.autocast(embeddings.device.type, enabled=False):
            centres = functional.normalize(self.centres.to(embeddings.dtype))
            centres = centres.unflatten(0, (-1, self.centres_per_class))
            # Sorted by their place in the class: a softmax over places takes half the time of one over neighbours.
            by_place = centres.transpose(0, 1).flatten(0, 1)
            sharpened = ((embeddings / self.gamma) @ by_place.T).unflatten(1, (self.centres_per_class, -1))
            logits = (sharpened.softmax(dim=1) * sharpened).sum(dim=1) * (self.gamma * self.scale)
            loss = class_cross_entropy(add_to_own_(logits, labels, -self.scale * self.margin), labels)
            if self.tau > 0 and self.centres_per_class > 1:
                loss = loss + self.tau * self._spread(centres)
            return loss

    def _spread(self, centres: Tensor) -> Tensor:
        """Return the regulariser of unit centres (num_classes, K, embedding_dim)."""
        # The official constant under the root keeps the gradient finite where two centres are the same.
        distances = (2 + 1e-5 - 2 * centres @ centres.transpose(1, 2)).sqrt()
        number = self.centres.shape[0] * (self.centres_per_class - 1)
        spread: Tensor = distances.triu(diagonal=1).sum() / number
        return spread
