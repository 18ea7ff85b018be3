"""Simultaneous similarity-based self-distillation (S2SD): wider embeddings beside the own one, as its teachers.

Roth, Milbich, Ommer, Cohen, Ghassemi, "S2SD: Simultaneous Similarity-based Self-Distillation for Deep Metric
Learning", ICML 2021, arXiv 2009.08348.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dmlbench.modifiers.psd import check_temperature, distillation_loss, psd_targets

WIDEST = 65_536  # a mistyped dimension would take all memory before it fails


@dataclass(frozen=True)
class S2SD:
    """S2SD with its settings.

    Args:
        tau: Temperature of both similarities, > 0.
        dimensions: Of the wider embeddings, e.g. "512,1024": one branch each.
        features: Whether the similarities of the backbone's features are learned from, too.
        feature_weight: Weight of that term, >= 0.
        feature_delay: Steps before it begins, >= 0.

    Raises:
        ValueError: If a setting is out of range.
    """

    tau: float
    dimensions: str
    features: bool
    feature_weight: float
    feature_delay: int

    def __post_init__(self) -> None:
        check_temperature("tau", self.tau)
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"dimensions must be whole numbers above 0, with commas, got {self.dimensions!r}")
        if max(self.widths) > WIDEST:
            raise ValueError(f"dimensions must be at most {WIDEST}, got {self.dimensions!r}")
        if self.feature_weight < 0 or self.feature_delay < 0:
            raise ValueError("feature_weight and feature_delay must be at least 0")

    @property
    def widths(self) -> tuple[int, ...]:
        """The dimensions of the branches; empty where they are not numbers."""
        parts = self.dimensions.split(",")
        return tuple(map(int, parts)) if all(part.strip().isdecimal() for part in parts) else ()

    def lesson(self, embeddings: Tensor, wider: Sequence[Tensor]) -> Tensor:
        """Return tau^2 KL of the similarities of every wider embedding to the own, averaged over rows and branches.

        Args:
            embeddings: The own, L2-normalised (N, D).
            wider: L2-normalised (N, D_i) each; they get no gradient from this.
        """
        losses = [self._divergence(embeddings, branch) for branch in wider]
        return torch.stack(losses).mean()

    def feature_lesson(self, embeddings: Tensor, features: Tensor) -> Tensor:
        """Return the same divergence from the similarities of the backbone's features (N, F), which get no gradient."""
        return self._divergence(embeddings, normalize(features.float(), dim=1))

    def _divergence(self, embeddings: Tensor, teacher: Tensor) -> Tensor:
        return distillation_loss(embeddings, psd_targets(teacher.detach(), self.tau), self.tau)


class WiderEmbeddings(nn.Module):
    """The branches: two linear layers with a ReLU between them for each width, as in the official code.

    Args:
        features: F of the backbone.
        widths: Of the embeddings.
    """

    def __init__(self, features: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width)) for width in widths
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, F) features -> for each branch (B, width) float32 embeddings of unit length."""
        return [normalize(branch(features).float(), dim=1) for branch in self.branches]
