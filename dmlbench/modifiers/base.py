"""What a modifier is: hooks into the trainer, each with a default, and what the hooks are given.

Shapes: B images in a batch, D dimensions of an embedding, F pooled features of the backbone.
"""

import inspect
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Group = dict[str, Any]  # of an optimiser: `params`, `lr`, `weight_decay`
Miner = Callable[[Tensor, Tensor, torch.Generator], Tensor]
CALLED = (
    "a loss is called as loss(embeddings (B, D), labels (B,)), and gets by name what it asks for of generator, epoch, "
    "epochs and indices, with a miner triplets, with XBM references and reference_labels"
)
CALLING = {__file__, nn.modules.module.__file__}


@dataclass
class Network:
    """A network to train, with its ranking loss.

    Attributes:
        model: `model.backbone(images)` gives features (B, F), `model.embed(features)` embeddings (B, D) of unit length.
        criterion: The ranking loss, with what it learns.
        view: Which augmentation of a batch's images it sees, counted from 0.
        period: Steps from one update of its weights to the next; gradients are averaged between.
    """

    model: nn.Module
    criterion: nn.Module
    view: int = 0
    period: int = 1


@dataclass(frozen=True)
class TeacherSettings:
    """The teacher that a method file asks for.

    Attributes:
        name: previous-epoch, ema, memory, weights (of a network that was trained before) or none.
        mode: Of a teacher that is a network: train or eval.
        momentum: Of `ema`.
        compiled: Whether a teacher that is a network is compiled.
        autocast: The type in which autocast computes its convolutions and linear layers; None without autocast.
    """

    name: str = "previous-epoch"
    mode: str = "train"
    momentum: float = 0.999
    compiled: bool = False
    autocast: torch.dtype | None = None


class BuildContext(Protocol):
    """What `Modifier.build` may use. The base's random streams are out of reach of whatever is drawn there.

    Attributes:
        base: The base's own network, with the weights and the loss that the base method starts from.
        classes: Training classes.
        images: Training images; `StepContext.indices` count them.
        embedding_dim: D.
        features: F.
        epochs: Of the training.
        learning_rate: The network's.
        precision: Of forward passes: none, bfloat16 or float16.
        device: The networks'.
        teacher: As the method file asks for it.
    """

    base: Network
    classes: int
    images: int
    embedding_dim: int
    features: int
    epochs: int
    learning_rate: float
    precision: str
    device: torch.device
    teacher: TeacherSettings

    def network(self, name: str) -> Network:
        """Another network with a loss of its own; both start from random streams of that name."""

    def teacher_network(self) -> nn.Module:
        """The network of the protocol with the teacher's weights, where the method has a file of them."""

    def criterion(self, embedding_dim: int) -> nn.Module:
        """The base's ranking loss for embeddings of a dimension."""

    def criterion_groups(self, criterion: nn.Module) -> list[Group]:
        """Optimiser groups of what a ranking loss learns, at the rates of the base's file."""

    def rate(self, parameter: str) -> float:
        """The learning rate of a modifier's own parameter: the one in its file, else the network's."""


class ForwardOutput(NamedTuple):
    """What the forward pass of one network gave.

    Attributes:
        features: (B, F) pooled features of the backbone.
        embeddings: (B, D) of unit length.
        ranking: The ranking loss, a scalar.
    """

    features: Tensor
    embeddings: Tensor
    ranking: Tensor


@dataclass(frozen=True)
class StepContext:
    """What a modifier may know of a step.

    Attributes:
        images: (B, C, H, W) float32, normalised. Of several GPUs that train together one may have a part of them alone,
            fewer than the labels; a user's modifier has them all.
        labels: (B,) int64 in [0, classes).
        indices: (B,) int64, the number of each image in the training split; an image may be drawn twice.
        epoch: Counted from 0.
        epochs: Of the training.
        models: The networks in training.
        criteria: Their ranking losses.
        mining: State of the mining stream at the beginning of the step.
        miner: Gives (n, 3) triplets in place of the ranking loss's own mining, where the method has one.
        clock: Takes the time of a phase: use `phase`.
        precision: Gives the context of a forward pass: use `autocast`.
        others: Further augmentations of the same images, where the modifier asks for `views`.
        forward: Gives what a network gives for images of the batch: use `embed`.
        updated: After a step, whether an update of the first network was due; gradients may wait for more batches.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    epoch: int
    epochs: int
    models: Sequence[nn.Module]
    mining: Tensor
    clock: Callable[[str], AbstractContextManager[None]]
    precision: Callable[[], AbstractContextManager[Any]]
    miner: Miner | None = None
    others: tuple[Tensor, ...] = ()
    forward: Callable[[nn.Module, Tensor], Tensor] = lambda network, images: network(images)
    updated: bool = True
    criteria: Sequence[nn.Module] = ()

    def generator(self) -> torch.Generator:
        """Return a fresh generator on the device: the mining stream from the step's beginning, once more."""
        generator = torch.Generator(self.labels.device)
        generator.set_state(self.mining)
        return generator

    def ranking_loss(
        self,
        criterion: nn.Module,
        embeddings: Tensor,
        generator: torch.Generator | None = None,
        references: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return a ranking loss (a scalar) of embeddings (B, D) of the batch, with all that its `forward` asks for.

        Args:
            criterion: The ranking loss.
            embeddings: Of unit length.
            generator: The mining's randomness; by default the mining stream from the step's beginning.
            references: Embeddings (M, D) and labels (M,) that the batch forms pairs with in place of itself.

        Raises:
            TypeError: where the loss does not take what it is called with.
            ValueError: where it gives no scalar.
        """
        generator = self.generator() if generator is None else generator
        given = {"indices": self.indices, "epoch": self.epoch, "epochs": self.epochs, "generator": generator}
        asked: dict[str, Any] = {name: given[name] for name in _asked(criterion.__class__.forward)}
        if self.miner is not None:
            asked["triplets"] = self.miner(embeddings.detach(), self.labels, generator)
        if references is not None:
            asked["references"], asked["reference_labels"] = references
        try:
            return scalar(criterion(embeddings, self.labels, **asked))
        except TypeError as error:
            if _is_inside(error):
                raise
            raise TypeError(f"{error}; {CALLED}") from error

    def embed(self, network: nn.Module) -> Tensor:
        """Return what a network gives (B, D) for the images of the batch; each of several GPUs forwards its part."""
        return self.forward(network, self.images)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count the time of a `with` block as that of a phase: `teacher`, or `distillation`, the default of a loss."""
        return self.clock(name)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the protocol's precision of a forward pass as a context."""
        return self.precision()


def scalar(loss: Tensor) -> Tensor:
    """Return a loss as it is; raises ValueError unless it is a tensor of one number, shape ()."""
    if not isinstance(loss, Tensor) or loss.ndim:
        given = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"a loss must be a scalar tensor of shape (), got {given}")
    return loss


def _is_inside(error: BaseException) -> bool:
    """Whether an error comes from what was called, not from the call."""
    return any(frame.f_code.co_filename not in CALLING for frame, _ in traceback.walk_tb(error.__traceback__))


@cache
def _asked(forward: Callable[..., Any]) -> tuple[str, ...]:
    """What a ranking loss may ask for by the names of its parameters, such as a schedule for `epoch`."""
    parameters = inspect.signature(forward).parameters
    return tuple(name for name in ("indices", "epoch", "epochs", "generator") if name in parameters)


class Modifier(nn.Module):
    """What a method adds to its base. Every hook has a default, which changes nothing.

    Parameters and buffers, and what `get_extra_state` gives, survive an interruption. Nothing here may read a value
    from the device: that would stop it. What is drawn from torch's global generator does not shift the base's.

    Args:
        lambda_: The weight of what it adds, `lambda` in a method file.

    Attributes:
        views: Augmentations of each image that a step needs.
        sampler: Draws the batches of an epoch in place of the protocol's sampler; None keeps that.
        augmentation: Changes each image after the protocol's augmentation; None changes nothing.
        miner: Gives triplets in place of the ranking loss's own mining; None keeps that.
        references: Whether it gives the base's loss `references`, embeddings that the batch forms pairs with.
    """

    references: bool = False
    views: int = 1
    sampler: Callable[..., Any] | None = None
    augmentation: Callable[[Tensor], Tensor] | None = None
    miner: Miner | None = None

    def __init__(self, lambda_: float = 1.0) -> None:
        super().__init__()
        self.lambda_ = lambda_

    def build(self, context: BuildContext) -> list[Network]:
        """Return the networks to train; the first is the one that `evaluate` and the base are compared by."""
        return [context.base]

    def check_training(self, steps: int, batch_size: int) -> None:
        """Raise ValueError where a training of so many steps, with batches of that size, cannot use the settings."""

    def parameter_groups(self, context: BuildContext) -> list[Group]:
        """Return optimiser groups of what the modifier learns itself: by default at its file's rates, without decay."""
        learned = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        return [{"params": [parameter], "lr": context.rate(name), "weight_decay": 0.0} for name, parameter in learned]

    def weight(self, epoch: int, epochs: int) -> float:  # noqa: ARG002 - a schedule asks for both
        """Return the weight of what `loss` gives in an epoch counted from 0, for the history."""
        return self.lambda_

    def loss(self, outputs: Sequence[ForwardOutput], context: StepContext) -> Sequence[Tensor] | None:  # noqa: ARG002
        """Return what is added to each network's ranking loss, already weighted: scalars; None for nothing."""
        return None

    def after_step(self, outputs: Sequence[ForwardOutput], context: StepContext) -> None:
        """Take what later steps need, after the optimiser's step; the outputs carry no gradient here."""

    def after_epoch(self, models: Sequence[nn.Module]) -> None:
        """Take what the next epoch needs."""

    def after_restore(self, models: Sequence[nn.Module]) -> None:
        """Bring back, at the end of an epoch, what follows from the restored networks and was therefore not saved."""
