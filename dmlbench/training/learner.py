"""What a training step is: ranking loss, and for a distilled method the pull towards a teacher's similarities.

The weight of the pull is epoch / epochs * lambda with the epoch counted from 0 (Zeng et al., arXiv 2211.07566,
official code), so it is 0 in the first epoch. Who teaches: see `teachers.py`.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dmlbench.data.loader import Batch
from dmlbench.distillation import distillation_loss
from dmlbench.training.clock import PhaseClock
from dmlbench.training.teachers import Teacher

STATEFUL = ("model", "criterion", "optimizer", "scheduler", "scaler")
AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Distillation(Protocol):
    """What the learner needs of a distillation: a temperature, and targets from the teacher's embeddings."""

    @property
    def tau(self) -> float: ...  # noqa: D102

    def targets(self, teacher_embeddings: Tensor) -> Tensor: ...  # noqa: D102


@dataclass
class Learner:
    """A model in training, and all the state that a step changes."""

    model: nn.Module
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    clock: PhaseClock
    epochs: int
    autocast: str = "none"
    distillation: Distillation | None = None
    weight: float = 0.0
    teacher: Teacher | None = None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        device = next(self.model.parameters()).device.type
        self.device = device
        self.scaler = torch.amp.GradScaler(device, enabled=self.autocast == "float16")

    def distillation_weight(self, epoch: int) -> float:
        """The weight in an epoch counted from 0; it grows linearly and never reaches lambda."""
        return self.weight * epoch / self.epochs

    def step(self, batch: Batch, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Take one step on a batch.

        Args:
            batch: Images, labels, and which images they are.
            epoch: counted from 0.
            generator: the mining stream, on the embeddings' device.

        Returns:
            Ranking loss and weighted distillation loss, detached scalars on the device.
        """
        clock = self.clock
        self.optimizer.zero_grad(set_to_none=True)  # first: gradients and activations need not share the memory
        with clock.phase("forward"), self._autocast():
            embeddings = self.model(batch.images)
        with clock.phase("loss"):
            ranking = self.criterion(embeddings, batch.labels, generator=generator)
        distilled = self._distil(embeddings, batch, epoch)
        loss = ranking if distilled is None else ranking + distilled
        with clock.phase("backward"):
            self.scaler.scale(loss).backward()
        with clock.phase("optimiser"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        # Comparisons with NaN are false, so a loss may mask broken embeddings away and look fine: they show here.
        shown = ranking.detach() + 0 * embeddings.detach().sum()
        return shown, torch.zeros_like(shown) if distilled is None else distilled.detach()

    def end_epoch(self) -> None:
        """Advance the schedule and let the teacher learn from the epoch."""
        self.scheduler.step()
        if self.teacher is not None:
            self.teacher.end_epoch(self.model)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on: weights, optimiser, schedule, and what a part of the method keeps."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` taken at the end of an epoch."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        if self.teacher is not None:
            self.teacher.end_epoch(self.model)

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {name: getattr(self, name) for name in STATEFUL}
        own = {"distillation": self.distillation, "teacher": self.teacher}
        return parts | {name: part for name, part in own.items() if hasattr(part, "state_dict")}

    def _distil(self, embeddings: Tensor, batch: Batch, epoch: int) -> Tensor | None:
        if self.distillation is None or self.teacher is None:
            return None
        weight, student = self.distillation_weight(epoch), embeddings.detach()
        with self.clock.phase("teacher"), torch.no_grad(), self._autocast():
            taught = self.teacher.embeddings(batch, student) if weight else None
            self.teacher.end_step(batch, student)
        if taught is None:
            return None
        with self.clock.phase("distillation"):
            targets = self.distillation.targets(taught)
            return weight * distillation_loss(embeddings, targets, self.distillation.tau)

    def _autocast(self) -> torch.autocast:
        dtype = AUTOCAST.get(self.autocast)
        return torch.autocast(self.device, dtype=dtype, enabled=dtype is not None)
