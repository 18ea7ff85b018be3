"""What a training step is: every member's ranking loss, and for a modified method what the modifier adds to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dmlbench.data.loader import Batch
from dmlbench.models.model import EmbeddingModel
from dmlbench.training.clock import PhaseClock
from dmlbench.training.member import Member
from dmlbench.training.modifiers import Modifier, Pass, Step
from dmlbench.training.precision import autocast


@dataclass
class Learner:
    """One network in training, or a cohort of them, and all the state that a step changes.

    Args:
        members: The networks. The first is the base method's own: its batches, its weights, its mining.
        clock: Takes the time of every phase.
        epochs: Of the training.
        precision: Of forward passes: none, bfloat16 or float16.
        modifier: What the method adds to its base, if anything.
    """

    members: Sequence[Member]
    clock: PhaseClock
    epochs: int
    precision: str = "none"
    modifier: Modifier | None = None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self._devices = [self.device] if self.device.type == "cuda" else []
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    @property
    def model(self) -> EmbeddingModel:
        """The first member's network."""
        return self.members[0].model

    @property
    def networks(self) -> list[EmbeddingModel]:
        """Every member's network."""
        return [member.model for member in self.members]

    @property
    def views(self) -> int:
        """How many augmentations of each image a step needs."""
        return self.modifier.views if self.modifier else 1

    def modifier_weight(self, epoch: int) -> float:
        """The weight of what the modifier adds in an epoch counted from 0; 0 without one."""
        return self.modifier.weight(epoch) if self.modifier else 0.0

    def train(self) -> None:
        """Switch every network to training."""
        for network in self.networks:
            network.train()

    def step(self, batch: Batch, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Take one step on a batch.

        Args:
            batch: Images, labels, and which images they are.
            epoch: counted from 0.
            generator: the mining stream, on the embeddings' device.

        Returns:
            Ranking loss and what the modifier adds, detached scalars on the device; of a cohort their means.
        """
        place = Step(batch, epoch, generator.get_state())
        for member in self.members:
            member.begin_step()
        passes = self._passes(place, generator)
        added = self.modifier.losses(passes, place) if self.modifier else None
        with self.clock.phase("backward"):
            self.scaler.scale(self._total(passes, added)).backward()
        with self.clock.phase("optimiser"):
            for member in self.members:
                member.end_step(self.scaler)
            self.scaler.update()
        # Comparisons with NaN are false, so a loss may mask broken embeddings away and look fine: they show here.
        shown = _mean([own.ranking.detach() + 0 * own.embeddings.detach().sum() for own in passes])
        return shown, torch.zeros_like(shown) if added is None else _mean([loss.detach() for loss in added])

    def end_epoch(self) -> None:
        """Advance the schedules and let the modifier take what it needs from the epoch."""
        for member in self.members:
            member.end_epoch()
        if self.modifier is not None:
            self.modifier.end_epoch(self.members)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on: weights, optimisers, schedules, and what a part of the method keeps."""
        own = {"members": [member.state() for member in self.members], "scaler": self.scaler.state_dict()}
        return own | {name: part.state_dict() for name, part in self._keeping().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` taken at the end of an epoch."""
        for member, own in zip(self.members, state["members"], strict=True):
            member.restore(own)
        self.scaler.load_state_dict(state["scaler"])
        for name, part in self._keeping().items():
            part.load_state_dict(state[name])
        if self.modifier is not None:
            self.modifier.end_epoch(self.members)

    def _keeping(self) -> dict[str, Any]:
        return {"modifier": self.modifier} if hasattr(self.modifier, "state_dict") else {}

    def _passes(self, place: Step, generator: torch.Generator) -> list[Pass]:
        forward = []
        with self.clock.phase("forward"), autocast(self.device, self.precision):
            for number, member in enumerate(self.members):
                # Dropout and the like draw from torch's global stream, which is the first member's, as the base's.
                with torch.random.fork_rng(self._devices, enabled=number > 0):
                    features = member.model.backbone(place.batch.view(member.view))
                    forward.append((features, member.model.embed(features)))
        with self.clock.phase("loss"):
            # The first member mines as the base does; the others from the same begin.
            streams = [generator, *(place.stream() for _ in self.members[1:])]
            rankings = [
                member.criterion(embeddings, place.batch.labels, generator=stream)
                for member, (_, embeddings), stream in zip(self.members, forward, streams, strict=True)
            ]
        return [Pass(*found, ranking) for found, ranking in zip(forward, rankings, strict=True)]

    def _total(self, passes: Sequence[Pass], added: Sequence[Tensor] | None) -> Tensor:
        rankings = [own.ranking for own in passes]
        losses = rankings if added is None else [own + extra for own, extra in zip(rankings, added, strict=True)]
        # Over the steps between two updates of a member its gradients add up to their mean.
        weighed = [
            loss / member.period if member.period > 1 else loss
            for loss, member in zip(losses, self.members, strict=True)
        ]
        return torch.stack(weighed).sum() if len(weighed) > 1 else weighed[0]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean() if len(values) > 1 else values[0]
