"""DM²: several networks trained together, each drawn to the others' relative distances. See `distillation/dm2.py`."""

import copy
from collections.abc import Sequence

from torch import Tensor

from dmlbench.errors import UserError
from dmlbench.modifiers import DM2
from dmlbench.specs.cell import Part
from dmlbench.training.clock import PhaseClock
from dmlbench.training.member import Member
from dmlbench.training.modifiers import Pass, Step
from dmlbench.training.workshop import Network, Workshop


class Mutual:
    """The pull of every member of a cohort to the others' distances within the batch.

    Args:
        settings: The cohort's.
        weight: lambda, the same in every epoch; with 0 the members know nothing of each other.
        clock: Takes the time of the phase `distillation`.
    """

    def __init__(self, settings: DM2, weight: float, clock: PhaseClock) -> None:
        self._settings, self._weight, self._clock = settings, weight, clock

    @property
    def views(self) -> int:
        """One a member, or one for all."""
        return self._settings.members if self._settings.view else 1

    def weight(self, epoch: int) -> float:  # noqa: ARG002 - a modifier's signature
        """Lambda."""
        return self._weight

    def losses(self, passes: Sequence[Pass], step: Step) -> Sequence[Tensor] | None:  # noqa: ARG002 - likewise
        """Each member's distance to the others' relations, which get no gradient from it."""
        if not self._weight:
            return None
        with self._clock.phase("distillation"):
            return [self._weight * loss for loss in self._settings.mutual_losses([own.embeddings for own in passes])]

    def end_epoch(self, members: Sequence[Member]) -> None:
        """Nothing to take."""


def cohort(
    workshop: Workshop, network: Network, settings: DM2, weight: float, part: Part
) -> tuple[list[Member], Mutual]:
    """The base's own network with companions, and what they learn from each other.

    Without model diversity a companion begins as a copy of the first.

    Raises:
        UserError: for members with gradients that wait in float16, whose scale changes from step to step.
    """
    if settings.period > 1 and workshop.protocol.training.autocast == "float16":
        raise UserError(
            f"{part.name}: period {settings.period}: gradients cannot wait under training.autocast=float16",
            hint="--set training.autocast=bfloat16, or --set distillation.period=1",
        )
    others = [
        _other(workshop, place) if settings.model else copy.deepcopy(network) for place in range(1, settings.members)
    ]
    members = [
        workshop.member(own, view=place if settings.view else 0, period=settings.period**place)
        for place, own in enumerate([network, *others])
    ]
    return members, Mutual(settings, weight, workshop.clock)


def _other(workshop: Workshop, place: int) -> Network:
    model = workshop.model(f"weights, member {place}")
    workshop.seeded(f"loss, member {place}")
    return model, workshop.criterion()
