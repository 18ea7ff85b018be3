"""What a modified method adds to its base: a loss for every member, and what it needs to know of a step."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dmlbench.data.loader import Batch
from dmlbench.modifiers import distillation_loss
from dmlbench.training.clock import PhaseClock
from dmlbench.training.member import Member
from dmlbench.training.precision import autocast
from dmlbench.training.teachers import Teacher


class Step(NamedTuple):
    """Where a step stands.

    Attributes:
        batch: Images, labels, and which images they are.
        epoch: Counted from 0.
        mining: State of the mining stream at the step's begin.
    """

    batch: Batch
    epoch: int
    mining: Tensor

    def stream(self) -> torch.Generator:
        """The mining stream once more from the step's begin: whoever else mines leaves the base's as it is."""
        generator = torch.Generator(self.batch.labels.device)
        generator.set_state(self.mining)
        return generator


class Pass(NamedTuple):
    """What a member's forward pass gave.

    Attributes:
        features: (B, F) pooled features of the backbone.
        embeddings: (B, D) of unit length.
        ranking: The ranking loss, a scalar.
    """

    features: Tensor
    embeddings: Tensor
    ranking: Tensor


class Modifier(Protocol):
    """What the learner needs of a modifier; what it keeps from epoch to epoch goes into a `state_dict`."""

    @property
    def views(self) -> int:
        """How many augmentations of each image a step needs."""

    def weight(self, epoch: int) -> float:
        """The weight of its loss in an epoch counted from 0."""

    def losses(self, passes: Sequence[Pass], step: Step) -> Sequence[Tensor] | None:
        """What is added to each member's ranking loss, weighted; None where nothing is."""

    def end_epoch(self, members: Sequence[Member]) -> None:
        """Take from the members what the next epoch needs; also called when a training is gone on with."""


class Distillation(Protocol):
    """What a teacher's lesson needs: a temperature, and targets from the teacher's embeddings."""

    @property
    def tau(self) -> float: ...  # noqa: D102

    def targets(self, teacher_embeddings: Tensor) -> Tensor: ...  # noqa: D102


class Taught:
    """The pull towards a teacher's similarities.

    Its weight is epoch / epochs * lambda with the epoch counted from 0 (Zeng et al., arXiv 2211.07566, official code),
    so it is 0 in the first epoch. Who teaches: see `teachers.py`.

    Args:
        teacher: Gives embeddings to learn from.
        distillation: Makes targets of them.
        weight: lambda.
        epochs: Of the training.
        clock: Takes the time of its phases.
        precision: Of the teacher's forward pass.
    """

    views = 1

    def __init__(
        self,
        teacher: Teacher,
        distillation: Distillation,
        *,
        weight: float,
        epochs: int,
        clock: PhaseClock,
        precision: str,
    ) -> None:
        self.teacher, self.distillation = teacher, distillation
        self._weight, self._epochs, self._clock, self._precision = weight, epochs, clock, precision

    def weight(self, epoch: int) -> float:
        """It grows linearly and never reaches lambda."""
        return self._weight * epoch / self._epochs

    def losses(self, passes: Sequence[Pass], step: Step) -> Sequence[Tensor] | None:
        """The divergence of the student's similarities from the targets."""
        (own,) = passes
        weight, student, batch = self.weight(step.epoch), own.embeddings.detach(), step.batch
        with self._clock.phase("teacher"), torch.no_grad(), autocast(student.device, self._precision):
            taught = self.teacher.embeddings(batch, student) if weight else None
            self.teacher.end_step(batch, student)
        if taught is None:
            return None
        with self._clock.phase("distillation"):
            targets = self.distillation.targets(taught)
            return [weight * distillation_loss(own.embeddings, targets, self.distillation.tau)]

    def end_epoch(self, members: Sequence[Member]) -> None:
        """The teacher learns from the student."""
        self.teacher.end_epoch(members[0].model)

    def state_dict(self) -> dict[str, object]:
        """What the teacher and the distillation keep."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        """Go on from a `state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, torch.nn.Module]:
        own = {"teacher": self.teacher, "distillation": self.distillation}
        return {name: part for name, part in own.items() if hasattr(part, "state_dict")}  # type: ignore[misc]
