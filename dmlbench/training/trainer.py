"""What a training step is: forward pass, ranking loss, modifier, backward pass, optimiser."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dmlbench.data.images import Split
from dmlbench.data.loader import Batch, TrainingBatches
from dmlbench.models.model import EmbeddingModel
from dmlbench.modifiers import ForwardOutput, Modifier, StepContext
from dmlbench.modifiers.base import scalar
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.training.device import PhaseClock, autocast
from dmlbench.training.optimisation import Clipping, Schedule
from dmlbench.training.ranks import ALONE, Ranks

CONSTANT = (
    "the loss depends on no weight, so there is no gradient: is it detached, by detach(), item(), no_grad() or a "
    "comparison?"
)
STATEFUL = ("model", "criterion", "optimizer", "scheduler")


@dataclass
class TrainableNetwork:
    """A network with its ranking loss and the optimiser of both; the first's also has what the modifier learns.

    Args:
        view: Which augmentation of a batch's images it sees, counted from 0.
        period: Steps from one update of its weights to the next; gradients are averaged between.
        micro_batch_size: Images in one forward pass of the backbone; None for the whole batch.
        frozen_epochs: Epochs at the beginning in which the backbone learns nothing.
        compiled: Whether the backbone's steps are compiled; the model, its state and its evaluation stay as they are.
    """

    model: EmbeddingModel
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Schedule
    clipping: Clipping
    view: int = 0
    period: int = 1
    micro_batch_size: int | None = None
    frozen_epochs: int = 0
    compiled: bool = False
    taken: int = 0  # steps since its weights changed
    _frozen: list[nn.Parameter] = field(default_factory=list)  # what rests now, and learns later
    _backbone: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        backbone = self.model.backbone
        self._backbone = torch.compile(backbone) if self.compiled else backbone

    def begin_step(self, epoch: int) -> None:
        """Free gradients that were used, before activations need the memory; `epoch` counts from 0."""
        if self.taken == 0:
            self.optimizer.zero_grad(set_to_none=True)
        if epoch < self.frozen_epochs and not self._frozen:
            self._frozen = [own for own in self.model.backbone.parameters() if own.requires_grad]
            self._learn(learn=False)
        elif epoch >= self.frozen_epochs and self._frozen:
            self._learn(learn=True)
            self._frozen = []

    def _learn(self, *, learn: bool) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(learn)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, F) of images (B, C, H, W)."""
        if self.micro_batch_size is None:
            return self._backbone(images)
        parts = images.split(self.micro_batch_size)
        return torch.cat([checkpoint(self._backbone, part, use_reentrant=False) for part in parts])

    def gradients(self) -> list[Tensor]:
        """The gradients of all that its optimiser updates."""
        return [parameter.grad for parameter in self._parameters() if parameter.grad is not None]

    def end_step(self, scaler: torch.amp.GradScaler) -> None:
        """Count a step, and update the weights where one is due."""
        self.taken = (self.taken + 1) % self.period
        if self.taken == 0:
            self.clipping.apply(self.optimizer, scaler)
            scaler.step(self.optimizer)
            self.scheduler.end_step()

    def state(self) -> dict[str, Any]:
        """Return all that its next epoch depends on, gradients that wait for their update too."""
        gradients = [parameter.grad for parameter in self._parameters()] if self.taken else []
        own = {name: getattr(self, name).state_dict() for name in STATEFUL}
        return own | {"taken": self.taken, "gradients": gradients}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.taken = int(state["taken"])
        for parameter, gradient in zip(self._parameters(), state["gradients"], strict=bool(self.taken)):
            parameter.grad = None if gradient is None else gradient.to(parameter.device).clone()

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


@dataclass
class Trainer:
    """Trains one network or several, and holds all the state that a step changes.

    Args:
        networks: The first is the base method's own: its batches, its weights, its mining.
        modifier: What the method adds to its base; None for a base.
        precision: Of forward passes: none, bfloat16 or float16.
        ranks: The processes that train together, of which this is one.
    """

    networks: Sequence[TrainableNetwork]
    modifier: Modifier | None
    clock: PhaseClock
    epochs: int
    precision: str = "none"
    ranks: Ranks = ALONE
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self._devices = [self.device] if self.device.type == "cuda" else []
        self._left: tuple[list[Tensor], list[Tensor]] | None = None  # global streams at a hook's beginning and end
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    @property
    def model(self) -> EmbeddingModel:
        """The first network."""
        return self.networks[0].model

    @property
    def models(self) -> list[EmbeddingModel]:
        """Every network."""
        return [network.model for network in self.networks]

    @property
    def views(self) -> int:
        """How many augmentations of each image a step needs."""
        return self.modifier.views if self.modifier else 1

    def batches(self, split: Split, protocol: ProtocolSpec, seed: int, data_workers: int = 0) -> TrainingBatches:
        """The batches of a seed as the modifier wants them, on the networks' device."""
        own = {name: getattr(self.modifier, name, None) for name in ("sampler", "augmentation")}
        # A user's modifier may read all images of a step; those shipped here leave forward passes to `context.embed`.
        whole = self.ranks.size == 1 or not type(self.modifier).__module__.startswith(("builtins", "dmlbench."))
        part = slice(None) if whole else self.ranks.part(protocol.training.batch_size)
        return TrainingBatches(split, protocol, seed, self.device, data_workers, views=self.views, part=part, **own)

    def modifier_weight(self, epoch: int) -> float:
        """Return the weight of what the modifier adds in an epoch counted from 0; 0 without one."""
        return self.modifier.weight(epoch, self.epochs) if self.modifier else 0.0

    def train(self) -> None:
        """Switch every network to training."""
        for model in self.models:
            model.train()

    def step(self, batch: Batch, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Take one step on a batch, in an epoch counted from 0, with the mining stream on the embeddings' device.

        Returns:
            Ranking loss and what the modifier adds, detached scalars on the device; of several networks their means.
        """
        context = self._context(batch, epoch, generator.get_state())
        for network in self.networks:
            network.begin_step(epoch)
        outputs = self._forward(batch, context, generator)
        added = self._modifier_loss(outputs, context)
        with self.clock.phase("backward"):
            total = self._total(outputs, added)
            if not total.requires_grad:
                raise ValueError(CONSTANT)
            self.scaler.scale(total).backward()
            for network in self.networks if self.ranks.size > 1 else ():
                self.ranks.average(network.gradients())
        with self.clock.phase("optimiser"):
            for network in self.networks:
                network.end_step(self.scaler)
            self.scaler.update()
        outputs = [ForwardOutput(*(tensor.detach() for tensor in output)) for output in outputs]
        if self.modifier is not None:
            with self._own_stream():
                self.modifier.after_step(outputs, replace(context, updated=self.networks[0].taken == 0))
        # Comparisons with NaN are false, so a loss may mask broken embeddings away and look fine: they show here.
        shown = _mean([output.ranking + 0 * output.embeddings.sum() for output in outputs])
        return shown, torch.zeros_like(shown) if added is None else _mean([loss.detach() for loss in added])

    def end_epoch(self) -> None:
        """Advance the schedules and let the modifier take what it needs from the epoch."""
        for network in self.networks:
            network.scheduler.end_epoch()
        if self.modifier is not None:
            self.modifier.after_epoch(self.models)

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on: weights, optimisers, schedules, and the modifier's state."""
        own = {"networks": [network.state() for network in self.networks], "scaler": self.scaler.state_dict()}
        return own | ({"modifier": self.modifier.state_dict()} if self.modifier is not None else {})

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state` taken at the end of an epoch."""
        for network, own in zip(self.networks, state["networks"], strict=True):
            network.restore(own)
        self.scaler.load_state_dict(state["scaler"])
        if self.modifier is not None:
            self.modifier.load_state_dict(state["modifier"])
            self.modifier.after_restore(self.models)

    def _context(self, batch: Batch, epoch: int, mining: Tensor) -> StepContext:
        return StepContext(
            images=batch.images,
            labels=batch.labels,
            indices=batch.indices,
            epoch=epoch,
            epochs=self.epochs,
            models=self.models,
            criteria=[network.criterion for network in self.networks],
            mining=mining,
            clock=self.clock.phase,
            precision=partial(autocast, self.device, self.precision),
            miner=self.modifier.miner if self.modifier is not None else None,
            others=batch.others,
            forward=partial(self.ranks.embed, batch_size=len(batch.labels)),
        )

    def _forward(self, batch: Batch, context: StepContext, generator: torch.Generator) -> list[ForwardOutput]:
        embedded = []
        with self.clock.phase("forward"), context.autocast():
            for number, network in enumerate(self.networks):
                # Dropout and the like draw from torch's global stream, which is the first network's, as the base's.
                with torch.random.fork_rng(self._devices, enabled=number > 0):
                    images = self.ranks.own(batch.view(network.view), len(batch.labels))
                    features = self.ranks.gather(network.features(images))
                    embedded.append((features, network.model.embed(features)))
        with self.clock.phase("loss"):
            # The first network mines as the base does; the others from the same beginning.
            streams = [generator, *(context.generator() for _ in self.networks[1:])]
            rankings = [
                context.ranking_loss(network.criterion, embeddings, stream)
                for network, (_, embeddings), stream in zip(self.networks, embedded, streams, strict=True)
            ]
        return [ForwardOutput(*found, ranking) for found, ranking in zip(embedded, rankings, strict=True)]

    def _modifier_loss(self, outputs: Sequence[ForwardOutput], context: StepContext) -> Sequence[Tensor] | None:
        if self.modifier is None:
            return None
        weighs = bool(self.modifier_weight(context.epoch))
        with self.clock.phase("distillation") if weighs else nullcontext(), self._own_stream():
            added = self.modifier.loss(outputs, context)
        if isinstance(added, Tensor):
            raise TypeError(f"a modifier's loss gives a list with a scalar for each network, not {tuple(added.shape)}")
        if added is not None and len(added) != len(self.networks):
            raise ValueError(f"the modifier's loss gives {len(added)} values for {len(self.networks)} networks")
        return added if added is None else [scalar(loss) for loss in added]

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """What a modifier draws from torch's global stream, dropout of a teacher for one, leaves the base's as it was.

        It starts from the base's state; while that does not move, each hook continues where the last one stopped.
        """
        with torch.random.fork_rng(self._devices):
            base = self._streams()
            if self._left is not None and all(map(_equal, base, self._left[0])):
                torch.set_rng_state(self._left[1][0])
                for device, state in zip(self._devices, self._left[1][1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            yield
            self._left = base, self._streams()

    def _streams(self) -> list[Tensor]:
        """The states of torch's global generators, which are on the host."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]

    def _total(self, outputs: Sequence[ForwardOutput], added: Sequence[Tensor] | None) -> Tensor:
        rankings = [output.ranking for output in outputs]
        losses = rankings if added is None else [own + extra for own, extra in zip(rankings, added, strict=True)]
        # Over the steps between two updates of a network its gradients add up to their mean.
        weighed = [
            loss / network.period if network.period > 1 else loss
            for loss, network in zip(losses, self.networks, strict=True)
        ]
        return torch.stack(weighed).sum() if len(weighed) > 1 else weighed[0]


def _equal(state: Tensor, other: Tensor) -> bool:
    """Whether two states of generators, bytes in the host's memory, are the same, without an operation of torch."""
    return ctypes.string_at(state.data_ptr(), state.numel()) == ctypes.string_at(other.data_ptr(), other.numel())


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean() if len(values) > 1 else values[0]
