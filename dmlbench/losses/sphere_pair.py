"""Pair cross-entropy on the sphere."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from dmlbench.losses.batch import check_positive, checked, nan_where_broken, pair_masks


class SpherePairLoss(nn.Module):
    """Classify, for each positive pair, the partner among the samples of other classes.

    A batch holds several samples of each class, which have places 0, 1, ... within it, by their order in the batch. For
    an anchor at place i and its partner at place j, the cross-entropy of the partner among itself and the negatives at
    places i and j, of similarities divided by `temperature`; averaged over the classes and summed over the ordered
    pairs of places. With two samples of each class the negatives are all samples of other classes. Ermolov,
    Mirvakhabova, Khrulkov, Sebe, Oseledets, "Hyperbolic Vision Transformers: Combining Improvements in Metric
    Learning", CVPR 2022, arXiv 2203.10833, the version on the sphere; as the official code, which normalises
    embeddings outside the loss. The official code needs equally many samples of each class; here the sum is divided by
    the number of classes with a pair.

    Args:
        temperature: Divides the similarities, >= 0.025 so that no exponential underflows.

    Raises:
        ValueError: If a parameter is out of range.
    """

    def __init__(self, temperature: Annotated[float, Ge(0.025)] = 0.1) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        if temperature < 0.025:
            raise ValueError(f"temperature must be at least 0.025, got {temperature}")
        self.temperature = temperature

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
            positive, negative = pair_masks(labels)
            place = positive.tril(diagonal=-1).sum(dim=1)
            pairs = positive & negative.any(dim=1, keepdim=True)
            # Less its largest value, 1 / temperature, an exponent lies within [-80, 0].
            logits = (embeddings @ embeddings.T - 1) / self.temperature
            exponentials = logits.exp()
            same_place = (place[:, None] == place).to(logits.dtype)
            at_place = torch.where(negative, exponentials, 0) @ same_place  # of each anchor, at each partner's place
            total = at_place + at_place.diagonal()[:, None] + exponentials
            losses = torch.where(pairs, total.log() - logits, 0)
            paired_classes = (place == 1).sum().clamp(min=1)
            return nan_where_broken(losses.sum() / paired_classes, embeddings)
