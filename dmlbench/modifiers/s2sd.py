"""Simultaneous similarity-based self-distillation (S2SD): auxiliary heads of higher dimension, from which it learns.

Roth, Milbich, Ommer, Cohen, Ghassemi, "S2SD: Simultaneous Similarity-based Self-Distillation for Deep Metric
Learning", ICML 2021, arXiv 2009.08348.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from pydantic import StringConstraints
from torch import Tensor, nn
from torch.nn.functional import normalize

from dmlbench.modifiers.base import BuildContext, ForwardOutput, Group, Modifier, Network, StepContext
from dmlbench.modifiers.psd import psd_targets
from dmlbench.modifiers.teachers import check_temperature, distillation_loss

WIDEST = 65_536  # a mistyped dimension would take all memory before it fails


class S2SD(Modifier):
    """Auxiliary heads learn the base's loss, and the embedding learns from their similarities.

    With ranking losses L of the embedding and L_i of the heads, the official code trains
    (L + mean L_i) / 2 + lambda mean KL_i, and after a delay a term for the features; L itself is the base's, so what is
    added to it is (mean L_i - L) / 2 and the rest. Lambda is above 0: with 0 the heads would go on training the
    network, and the method would not be its base.

    Args:
        lambda_: Weight of the distillation, > 0.
        tau: Temperature of both similarities, > 0.
        dimensions: Of the heads' embeddings, e.g. "512,1024": one head each.
        features: Whether the similarities of the backbone's features are learned from, too.
        feature_weight: Weight of that term, >= 0.
        feature_delay: Steps before it begins, >= 0.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        *,
        lambda_: Annotated[float, Gt(0)] = 1.0,
        tau: Annotated[float, Gt(0)],
        dimensions: Annotated[str, StringConstraints(pattern=r"^[1-9]\d*(,[1-9]\d*)*$")],
        features: bool,
        feature_weight: Annotated[float, Ge(0)],
        feature_delay: Annotated[int, Ge(0)],
    ) -> None:
        super().__init__(lambda_)
        check_temperature("tau", tau)
        if not all(part.strip().isdecimal() and int(part) for part in dimensions.split(",")):
            raise ValueError(f"dimensions must be whole numbers above 0, with commas, got {dimensions!r}")
        self.dimensions = tuple(int(part) for part in dimensions.split(","))
        if max(self.dimensions) > WIDEST:
            raise ValueError(f"dimensions must be at most {WIDEST}, got {dimensions!r}")
        if feature_weight < 0 or feature_delay < 0:
            raise ValueError("feature_weight and feature_delay must be at least 0")
        self.tau, self.features = tau, features
        self.feature_weight, self.feature_delay = feature_weight, feature_delay
        self._steps = 0

    def build(self, context: BuildContext) -> list[Network]:
        """Make the heads, and a ranking loss for each."""
        self.heads = AuxiliaryHeads(context.features, self.dimensions).to(context.device)
        self.criteria = nn.ModuleList(context.criterion(dimension) for dimension in self.dimensions)
        return [context.base]

    def parameter_groups(self, context: BuildContext) -> list[Group]:
        """As in the official code: heads at the network's rate without weight decay, and what their losses learn."""
        heads = {"params": list(self.heads.parameters()), "lr": context.learning_rate, "weight_decay": 0.0}
        return [heads, *(group for criterion in self.criteria for group in context.criterion_groups(criterion))]

    def loss(self, outputs: Sequence[ForwardOutput], context: StepContext) -> Sequence[Tensor]:
        """Return what makes the base's loss S2SD's."""
        own = outputs[0]
        with context.autocast():
            embeddings = self.heads(own.features)
        pairs = zip(self.criteria, embeddings, strict=True)
        rankings = [context.ranking_loss(criterion, branch) for criterion, branch in pairs]
        added = (torch.stack(rankings).mean() - own.ranking) / 2
        added = added + self.lambda_ * self.divergence(own.embeddings, embeddings)
        if self.features and self._steps >= self.feature_delay:
            added = added + self.feature_weight * self.feature_divergence(own.embeddings, own.features)
        self._steps += 1
        return [added]

    def divergence(self, embeddings: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        """Return tau^2 KL of the heads' similarities to the embedding's, averaged over rows and heads.

        Args:
            embeddings: L2-normalised (N, D).
            teachers: The heads' L2-normalised embeddings (N, D_i); they get no gradient from this.
        """
        losses = [distillation_loss(embeddings, psd_targets(one.detach(), self.tau), self.tau) for one in teachers]
        return torch.stack(losses).mean()

    def feature_divergence(self, embeddings: Tensor, features: Tensor) -> Tensor:
        """Return the same divergence from the similarities of the backbone's features (N, F), which get no gradient."""
        return self.divergence(embeddings, [normalize(features.float(), dim=1)])

    def get_extra_state(self) -> int:
        """Return the steps so far, for the `state_dict`."""
        return self._steps

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        """Take back what `get_extra_state` gave."""
        self._steps = int(state)


class AuxiliaryHeads(nn.Module):
    """Two linear layers with a ReLU between them for each dimension, as in the official code.

    Args:
        features: F of the backbone.
        dimensions: Of the embeddings.
    """

    def __init__(self, features: int, dimensions: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(features, size), nn.ReLU(), nn.Linear(size, size)) for size in dimensions
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, F) features -> for each head (B, D_i) float32 embeddings of unit length."""
        return [normalize(branch(features).float(), dim=1) for branch in self.branches]
