"""A network in training with all that is its own. A learner holds one; a method that trains a cohort holds several."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dmlbench.models.model import EmbeddingModel

STATEFUL = ("model", "criterion", "optimizer", "scheduler")


@dataclass
class Member:
    """A network, its loss and its optimiser.

    Args:
        model: The network.
        criterion: Its ranking loss, with what that learns.
        optimizer: Of both.
        scheduler: Of the optimiser.
        view: Which augmentation of a batch's images it sees, counted from 0.
        period: Steps from one update of its weights to the next; gradients are averaged between.
    """

    model: EmbeddingModel
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    view: int = 0
    period: int = 1
    taken: int = 0  # steps since its weights changed

    def begin_step(self) -> None:
        """Let go of gradients that were used, before activations need the memory."""
        if self.taken == 0:
            self.optimizer.zero_grad(set_to_none=True)

    def end_step(self, scaler: torch.amp.GradScaler) -> None:
        """Count a step, and update the weights where one is due."""
        self.taken = (self.taken + 1) % self.period
        if self.taken == 0:
            scaler.step(self.optimizer)

    def end_epoch(self) -> None:
        """Advance the schedule."""
        with warnings.catch_warnings():
            # In an epoch of few steps a slow member may not have updated yet, which torch takes for a mistake.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """All that its next epoch depends on, gradients that wait for their update too."""
        gradients = [parameter.grad for parameter in self._parameters()] if self.taken else []
        own = {name: getattr(self, name).state_dict() for name in STATEFUL}
        return own | {"taken": self.taken, "gradients": gradients}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.taken = int(state["taken"])
        for parameter, gradient in zip(self._parameters(), state["gradients"], strict=bool(self.taken)):
            parameter.grad = None if gradient is None else gradient.to(parameter.device).clone()

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
