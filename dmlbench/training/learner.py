"""What a training step is: ranking loss, and for a distilled method the pull towards the teacher's similarities.

The teacher is the student as it was at the end of the previous epoch, an in-memory copy in evaluation mode, on the
same augmented batch (Zeng et al., arXiv 2211.07566, official code). Its weight is epoch / epochs * lambda with the
epoch counted from 0, so the first epoch has no teacher, and a base method never has one.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dmlbench.distillation import distillation_loss
from dmlbench.training.clock import PhaseClock

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
    teacher: nn.Module | None = None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        device = next(self.model.parameters()).device.type
        self.device = device
        self.scaler = torch.amp.GradScaler(device, enabled=self.autocast == "float16")

    def distillation_weight(self, epoch: int) -> float:
        """The weight in an epoch counted from 0; it grows linearly and never reaches lambda."""
        return self.weight * epoch / self.epochs

    def step(self, images: Tensor, labels: Tensor, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Take one step on a batch.

        Args:
            images: (B, C, H, W) float32, normalised.
            labels: (B,) int64.
            epoch: counted from 0.
            generator: the mining stream, on the embeddings' device.

        Returns:
            Ranking loss and weighted distillation loss, detached scalars on the device.
        """
        clock = self.clock
        with clock.phase("forward"), self._autocast():
            embeddings = self.model(images)
        with clock.phase("loss"):
            ranking = self.criterion(embeddings, labels, generator=generator)
        distilled = self._distil(embeddings, images, epoch)
        loss = ranking if distilled is None else ranking + distilled
        with clock.phase("backward"):
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
        with clock.phase("optimiser"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        # Comparisons with NaN are false, so a loss may mask broken embeddings away and look fine: they show here.
        shown = ranking.detach() + 0 * embeddings.detach().sum()
        return shown, torch.zeros_like(shown) if distilled is None else distilled.detach()

    def end_epoch(self) -> None:
        """Advance the schedule and make the student the next epoch's teacher."""
        self.scheduler.step()
        self._renew_teacher()

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on: weights, optimiser, schedule, and what a loss or distillation keeps."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` taken at the end of an epoch; the teacher is the student as it was then."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._renew_teacher()

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {name: getattr(self, name) for name in STATEFUL}
        return parts | ({"distillation": self.distillation} if hasattr(self.distillation, "state_dict") else {})

    def _renew_teacher(self) -> None:
        if self.distillation is None or self.weight == 0:
            return
        if self.teacher is None:
            self.teacher = copy.deepcopy(self.model).requires_grad_(False).eval()
        else:
            self.teacher.load_state_dict(self.model.state_dict())

    def _distil(self, embeddings: Tensor, images: Tensor, epoch: int) -> Tensor | None:
        weight = self.distillation_weight(epoch)
        if self.distillation is None or self.teacher is None or weight == 0:
            return None
        with self.clock.phase("teacher"), torch.no_grad(), self._autocast():
            teacher_embeddings = self.teacher(images)
        with self.clock.phase("distillation"):
            targets = self.distillation.targets(teacher_embeddings)
            return weight * distillation_loss(embeddings, targets, self.distillation.tau)

    def _autocast(self) -> torch.autocast:
        dtype = AUTOCAST.get(self.autocast)
        return torch.autocast(self.device, dtype=dtype, enabled=dtype is not None)
