"""How rates change over a training, and how gradients are bounded, by torch's own schedulers and clipping."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, StepLR

from dmlbench.specs.protocol_spec import TrainingSpec


class Schedule:
    """The learning rates of an optimiser over a training: the protocol's schedule, times a warm-up's linear rise.

    The schedule moves once an epoch and counts from the beginning; the warm-up moves once an epoch or once an update.

    Args:
        optimizer: Its rates are the full ones; a warm-up lowers them at once.
        training: As the protocol has it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, training: TrainingSpec) -> None:
        self.main = _main(optimizer, training)
        self.rise: LRScheduler | None = None
        self._by_step = False
        if training.warmup and training.warmup.start < 1:
            self._by_step = training.warmup.steps is not None
            length = training.warmup.steps or training.warmup.epochs
            self.rise = LinearLR(optimizer, start_factor=training.warmup.start, total_iters=length or 1)

    def end_step(self) -> None:
        """Count an update of the weights."""
        if self.rise is not None and self._by_step:
            self._advance(self.rise)

    def end_epoch(self) -> None:
        """Count an epoch."""
        self._advance(self.main)
        if self.rise is not None and not self._by_step:
            self._advance(self.rise)

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule is; without a warm-up that of torch's scheduler."""
        own = self.main.state_dict()
        return own if self.rise is None else {"main": own, "rise": self.rise.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.main.load_state_dict(state if self.rise is None else state["main"])
        if self.rise is not None:
            self.rise.load_state_dict(state["rise"])

    def _advance(self, scheduler: LRScheduler) -> None:
        with warnings.catch_warnings():
            # In an epoch of few steps a slow network may not have updated yet, which torch takes for a mistake.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            scheduler.step()


def _main(optimizer: torch.optim.Optimizer, training: TrainingSpec) -> LRScheduler:
    if training.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=training.epochs)
    if training.step_size:
        return StepLR(optimizer, training.step_size, gamma=training.gamma)
    return MultiStepLR(optimizer, list(training.milestones), gamma=training.gamma)


@dataclass(frozen=True)
class Clipping:
    """Bounds of the gradient of a network and its loss: of its norm, or of each of its values; None is no bound."""

    norm: float | None = None
    value: float | None = None

    def apply(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        """Bound the gradients of all that an optimiser learns, without waiting for the device."""
        if self.norm is None and self.value is None:
            return
        scaler.unscale_(optimizer)
        learned = [own for group in optimizer.param_groups for own in group["params"]]
        if self.norm is not None:
            torch.nn.utils.clip_grad_norm_(learned, self.norm)
        else:
            torch.nn.utils.clip_grad_value_(learned, self.value or 0.0)
