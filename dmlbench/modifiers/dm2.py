"""Diversified mutual metric learning (DM²): networks that learn each other's distances within the batch.

Park, Kim, You, Cho, "Diversified Mutual Learning for Deep Metric Learning", ECCV Workshops 2020, arXiv 2009.04170. A
reconstruction from the abstract: the paper's loss and constants were not found. The relational term is the distance
potential of the same first author: Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019.
"""

import copy
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from dmlbench.modifiers.base import BuildContext, ForwardOutput, Modifier, Network, StepContext
from dmlbench.modifiers.rkd import potential, relative_distances

MOST_NETWORKS = 64  # a mistyped number would take all memory before it fails


class DM2(Modifier):
    """Several networks trained together, each drawn to the others' relative distances within the batch.

    The first is the base's own: its batches, its weights, its mining. Without model diversity the others begin as
    copies of it. With lambda 0 the networks know nothing of each other.

    Args:
        lambda_: Weight of the distance to the others' relations, >= 0, the same in every epoch.
        members: Networks of the cohort, at least 2.
        model: Model diversity: each has initial weights of its own; where weights are pretrained, a head of its own.
        view: View diversity: each sees an augmentation of its own of the same images.
        period: Temporal diversity: network k, counted from 0, updates its weights every period^k steps; 1 is none.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        *,
        lambda_: Annotated[float, Ge(0)] = 1.0,
        members: Annotated[int, Ge(2)],
        model: bool,
        view: bool,
        period: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__(lambda_)
        if members < 2:
            raise ValueError(f"members must be at least 2, got {members}")
        if members > MOST_NETWORKS:
            raise ValueError(f"members must be at most {MOST_NETWORKS}, got {members}")
        if period < 1:
            raise ValueError(f"period must be at least 1, got {period}")
        self.members, self.model, self.view, self.period = members, model, view, period
        self.views = members if view else 1

    def build(self, context: BuildContext) -> list[Network]:
        """Return the base's network and its companions.

        Raises:
            ValueError: for gradients that wait in float16, whose scale changes from step to step.
        """
        if self.period > 1 and context.precision == "float16":
            raise ValueError(
                f"period {self.period}: gradients cannot wait under training.autocast=float16; "
                "--set training.autocast=bfloat16, or --set distillation.period=1"
            )
        others = [
            # The name is that of a random stream, which results depend on.
            context.network(f"member {number}") if self.model else copy.deepcopy(context.base)
            for number in range(1, self.members)
        ]
        return [
            Network(network.model, network.criterion, view=number if self.view else 0, period=self.period**number)
            for number, network in enumerate([context.base, *others])
        ]

    def loss(
        self,
        outputs: Sequence[ForwardOutput],
        context: StepContext,  # noqa: ARG002 - a hook's signature
    ) -> Sequence[Tensor] | None:
        """Return each network's distance to the others' relations, which get no gradient from it."""
        if not self.lambda_:
            return None
        return [self.lambda_ * loss for loss in self.mutual_losses([output.embeddings for output in outputs])]

    def mutual_losses(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Return each network's mean `relational_loss` to all others, a scalar, given the embeddings (N, D) of each."""
        relations = [relative_distances(own) for own in embeddings]
        return [
            torch.stack([potential(mine, other.detach()) for other in relations if other is not mine]).mean()
            for mine in relations
        ]
