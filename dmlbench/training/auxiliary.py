"""S2SD: wider embeddings learn beside the own one, which learns from them. See `distillation/s2sd.py`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmlbench.modifiers import S2SD, WiderEmbeddings
from dmlbench.specs.cell import Part
from dmlbench.training.clock import PhaseClock
from dmlbench.training.member import Member
from dmlbench.training.modifiers import Pass, Step
from dmlbench.training.precision import autocast
from dmlbench.training.workshop import Network, Workshop


class Wider(nn.Module):
    """The wider embeddings with their losses, and the lesson the own embedding takes from them.

    With ranking losses L of the own embedding and L_i of the wider ones, the official code trains
    (L + mean L_i) / 2 + lambda mean KL_i, and after a delay a term for the features; L itself is the learner's, so what
    is added to it here is (mean L_i - L) / 2 and the rest.

    Args:
        settings: S2SD's.
        wider: The branches.
        criteria: The base's loss for each branch.
        weight: lambda.
        clock: Takes the time of the phase `distillation`.
        precision: Of the branches' forward pass.
    """

    views = 1

    def __init__(
        self,
        settings: S2SD,
        wider: WiderEmbeddings,
        criteria: Sequence[nn.Module],
        *,
        weight: float,
        clock: PhaseClock,
        precision: str,
    ) -> None:
        super().__init__()
        self.wider, self.criteria = wider, nn.ModuleList(criteria)
        self._settings, self._weight, self._clock, self._precision = settings, weight, clock, precision
        self._steps = 0

    def weight(self, epoch: int) -> float:  # noqa: ARG002 - a modifier's signature
        """Lambda, the same in every epoch."""
        return self._weight

    def losses(self, passes: Sequence[Pass], step: Step) -> Sequence[Tensor]:
        """What makes the base's loss S2SD's."""
        (own,) = passes
        with self._clock.phase("distillation"):
            with autocast(own.embeddings.device, self._precision):
                wider = self.wider(own.features)
            pairs = zip(self.criteria, wider, strict=True)
            rankings = [loss(branch, step.batch.labels, generator=step.stream()) for loss, branch in pairs]
            added = (torch.stack(rankings).mean() - own.ranking) / 2
            added = added + self._weight * self._settings.lesson(own.embeddings, wider)
            if self._settings.features and self._steps >= self._settings.feature_delay:
                lesson = self._settings.feature_lesson(own.embeddings, own.features)
                added = added + self._settings.feature_weight * lesson
        self._steps += 1
        return [added]

    def end_epoch(self, members: Sequence[Member]) -> None:
        """Nothing to take."""

    def get_extra_state(self) -> int:
        """Steps so far, of the `state_dict`."""
        return self._steps

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        """Inverse of `get_extra_state`."""
        self._steps = int(state)


def auxiliary(
    workshop: Workshop, network: Network, settings: S2SD, weight: float, part: Part
) -> tuple[list[Member], Wider]:
    """One member that also learns the branches, as in the official code at the network's rate without weight decay."""
    workshop.seeded(f"weights, {part.name}")
    wider = WiderEmbeddings(network[0].head.in_features, settings.widths).to(workshop.device)
    criteria = [workshop.criterion(width) for width in settings.widths]
    training = workshop.protocol.training
    own = Wider(settings, wider, criteria, weight=weight, clock=workshop.clock, precision=training.autocast)
    branches = {"params": list(wider.parameters()), "lr": training.learning_rate, "weight_decay": 0.0}
    extra = [branches, *(group for loss in criteria for group in workshop.rates(loss))]
    return [workshop.member(network, extra)], own
