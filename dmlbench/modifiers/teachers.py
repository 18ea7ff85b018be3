"""Distillation: the student learns from a teacher's embeddings of the same images, and who the teacher is."""

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from numbers import Real
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from dmlbench.modifiers.base import BuildContext, ForwardOutput, Modifier, Network, StepContext, TeacherSettings


class Teacher(Protocol):
    """Whose embeddings the student learns from."""

    def embeddings(self, context: StepContext, student: Tensor) -> Tensor | None:
        """Embeddings (B, D) of unit length for a batch, or None while there is nothing to learn from.

        Args:
            context: Images, and which they are.
            student: The student's own embeddings (B, D) of the batch, detached.
        """

    def after_step(self, context: StepContext, student: Tensor) -> None:
        """Take from a step what later ones need; also in the first epoch, in which nothing is learned from it."""

    def after_epoch(self, model: nn.Module) -> None:
        """Take from the student what the next epoch needs."""


class Distillation(Modifier):
    """The student learns from a teacher, the one that the method file asks for. A subclass gives the `divergence`.

    Args:
        lambda_: The weight; with 0 there is no teacher, and the method is its base bit for bit.
    """

    def __init__(self, lambda_: float) -> None:
        super().__init__(lambda_)
        self.teacher: Teacher | None = None

    def weight(self, epoch: int, epochs: int) -> float:  # noqa: ARG002 - as every modifier
        """Return lambda; 0 in the first epoch, counted as 0, where no epoch before it has left a teacher."""
        return 0.0 if isinstance(self.teacher, PreviousEpoch) and epoch == 0 else self.lambda_

    def divergence(self, embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """Return how far the student's embeddings (N, D) are from the teacher's of the same images, a scalar."""
        raise NotImplementedError

    def build(self, context: BuildContext) -> list[Network]:
        """Make the teacher that the method file asks for."""
        asked = context.teacher
        if self.lambda_ and asked.name == "memory":
            self.teacher = Memory(context.images, context.embedding_dim).to(context.device)
        elif self.lambda_ and asked.name == "ema":
            self.teacher = MovingAverage(context.base.model, asked.momentum, asked.mode, compiled=asked.compiled)
        elif self.lambda_ and asked.name == "weights":
            self.teacher = TrainedBefore(context.teacher_network(), asked)
        elif self.lambda_:
            self.teacher = PreviousEpoch(asked.mode, compiled=asked.compiled, autocast=asked.autocast)
        return [context.base]

    def loss(self, outputs: Sequence[ForwardOutput], context: StepContext) -> Sequence[Tensor] | None:
        """Return the weighted divergence of the student from its teacher; None while there is none."""
        weight, own = self.weight(context.epoch, context.epochs), outputs[0].embeddings
        if self.teacher is None or not weight:
            return None
        with context.phase("teacher"), torch.no_grad(), context.autocast():
            teacher = self.teacher.embeddings(context, own.detach())
        return None if teacher is None else [weight * self.divergence(own, teacher)]

    def after_step(self, outputs: Sequence[ForwardOutput], context: StepContext) -> None:
        """Let the teacher take what it needs of a step."""
        if self.teacher is not None:
            with context.phase("teacher"), torch.no_grad():
                self.teacher.after_step(context, outputs[0].embeddings)

    def after_epoch(self, models: Sequence[nn.Module]) -> None:
        """Let the teacher take what it needs of the student."""
        if self.teacher is not None:
            self.teacher.after_epoch(models[0])

    def after_restore(self, models: Sequence[nn.Module]) -> None:
        """The student at the end of the previous epoch is the network that was just restored."""
        self.after_epoch(models)


class SelfDistillation(Distillation):
    """The student's similarities within a batch are drawn to targets made of a teacher's.

    The weight is epoch / epochs * lambda with the epoch counted from 0 (Zeng et al., arXiv 2211.07566, official code),
    so it is 0 in the first epoch and never reaches lambda. A subclass gives the `targets`.

    Args:
        lambda_: The weight; with 0 there is no teacher, and the method is its base bit for bit.
        tau: Temperature of teacher and student, > 0.

    Raises:
        ValueError: If the temperature is out of range.
    """

    def __init__(self, lambda_: float, tau: float) -> None:
        super().__init__(lambda_)
        check_temperature("tau", tau)
        self.tau = tau

    def targets(self, teacher_embeddings: Tensor) -> Tensor:
        """Return targets (N, N), rows summing to 1, of the teacher's embeddings (N, D)."""
        raise NotImplementedError

    def weight(self, epoch: int, epochs: int) -> float:
        """Return a weight that grows linearly from 0."""
        return self.lambda_ * epoch / epochs

    def divergence(self, embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """Return `distillation_loss` of the student's similarities to the targets."""
        return distillation_loss(embeddings, self.targets(teacher_embeddings), self.tau)


class PreviousEpoch:
    """The student as it was at the end of the previous epoch: a copy of the network, on the same batch.

    Zeng et al., arXiv 2211.07566. Their official code never puts the teacher in evaluation mode: unless the protocol
    freezes it, its BatchNorm uses the batch's statistics, as the student's does. The first epoch has no teacher.

    Args:
        mode: `train`, the official code's, or `eval`, in which BatchNorm uses the running statistics.
        fold: Whether the copy is `folded`; only a measurement of what that saves has it otherwise.
        compiled: Whether the copy is compiled instead, once: later epochs replace its weights.
        autocast: The type in which autocast computes convolutions and linear layers; None without autocast.
    """

    def __init__(
        self, mode: str = "train", *, fold: bool = True, compiled: bool = False, autocast: torch.dtype | None = None
    ) -> None:
        self.network: nn.Module | None = None
        self.mode = mode
        self.compiled = compiled
        self._fold = fold
        self.autocast = autocast

    def embeddings(self, context: StepContext, student: Tensor) -> Tensor | None:  # noqa: ARG002 - as every teacher
        """Return the copy's embeddings (B, D) of the very same augmented images."""
        return None if self.network is None else context.embed(self.network)

    def after_step(self, context: StepContext, student: Tensor) -> None:
        """Nothing: within an epoch the copy stays as it is."""

    def after_epoch(self, model: nn.Module) -> None:
        """Become the student, with BatchNorm folded into convolutions where `folded` can tell that it is exact.

        On a CPU alone: on CUDA a BatchNorm that is folded away spares no launch.
        """
        if self.compiled and self.network is not None:
            _take_over(self.network, model)
            return
        network = frozen_copy(model, self.mode, compiled=self.compiled)
        network = folded(network) if self._fold and not self.compiled and _on_cpu(model) else network
        self.network = rounded(network, self.autocast)

    def folds(self, model: nn.Module) -> bool:
        """Whether folding would change anything of the copy of a student."""
        return not self.compiled and _on_cpu(model) and any(True for _ in _foldable(frozen_copy(model, self.mode)))


class TrainedBefore:
    """A network that was trained before and learns nothing, on the same batch.

    Args:
        network: `network(images)` gives embeddings (B, D) of unit length.
        asked: The mode, and how it is computed.
    """

    def __init__(self, network: nn.Module, asked: TeacherSettings) -> None:
        self.network = rounded(frozen_copy(network, asked.mode, compiled=asked.compiled), asked.autocast)

    def embeddings(self, context: StepContext, student: Tensor) -> Tensor:  # noqa: ARG002 - as every teacher
        """Return its embeddings (B, D) of the very same augmented images."""
        return context.embed(self.network)

    def after_step(self, context: StepContext, student: Tensor) -> None:
        """Nothing: it stays as it is."""

    def after_epoch(self, model: nn.Module) -> None:
        """Nothing: it stays as it is."""


class MovingAverage(nn.Module):
    """An exponential moving average (EMA) of the student's weights, on the same batch.

    Tarvainen, Valpola, "Mean teachers are better role models", NeurIPS 2017. After each step of the optimiser,
    teacher = momentum * teacher + (1 - momentum) * student; BatchNorm's statistics are the student's latest.

    Args:
        model: The student, which it starts as a copy of.
        momentum: In [0, 1).
        mode: `train`, in which BatchNorm uses the batch's statistics, or `eval`.
        compiled: Whether the average is compiled.

    Raises:
        ValueError: If the momentum is out of range.
    """

    network: nn.Module
    momentum: float

    def __init__(self, model: nn.Module, momentum: float, mode: str = "train", *, compiled: bool = False) -> None:
        super().__init__()
        if not isinstance(momentum, Real) or not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum
        self.network = frozen_copy(model, mode, compiled=compiled)

    def embeddings(self, context: StepContext, student: Tensor) -> Tensor:  # noqa: ARG002 - as every teacher
        """Return the average's embeddings (B, D) of the very same augmented images."""
        return context.embed(self.network)

    def after_step(self, context: StepContext, student: Tensor) -> None:  # noqa: ARG002 - as every teacher
        """Move towards the student, where its weights changed."""
        if not context.updated:
            return
        model = context.models[0]
        own = [parameter.detach() for parameter in self.network.parameters()]
        others = [parameter.detach() for parameter in model.parameters()]
        torch._foreach_lerp_(own, others, 1 - self.momentum)  # one call for all parameters
        for buffer, other in zip(self.network.buffers(), model.buffers(), strict=True):
            buffer.copy_(other)

    def after_epoch(self, model: nn.Module) -> None:
        """Nothing to take: every step has moved it."""


class Memory(nn.Module):
    """The embeddings that the student itself gave to each image the last time it saw it: no second forward pass.

    They are of another augmentation, of older weights, and of training mode. An image that was not seen yet is
    represented by the embedding that it has just got. A method of this benchmark.

    Args:
        images: N, the images of the training split.
        embedding_dim: D.
    """

    seen: Tensor
    kept: Tensor

    def __init__(self, images: int, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(images, dtype=torch.bool))
        self.register_buffer("kept", torch.zeros(images, embedding_dim))

    def embeddings(self, context: StepContext, student: Tensor) -> Tensor:
        """Return what is remembered of the batch's images, (B, D)."""
        return torch.where(self.seen[context.indices, None], self.kept[context.indices], student)

    def after_step(self, context: StepContext, student: Tensor) -> None:
        """Remember the batch; of an image drawn twice, the later embedding where the protocol is deterministic."""
        self.kept[context.indices] = student
        self.seen.index_fill_(0, context.indices, True)  # `seen[indices] = True` makes the host wait

    def after_epoch(self, model: nn.Module) -> None:
        """Nothing to take: every step has left its embeddings."""


def frozen_copy(model: nn.Module, mode: str, *, compiled: bool = False) -> nn.Module:
    """Return a copy of a network that learns nothing, in the mode `train` or `eval`, compiled where asked."""
    network = copy.deepcopy(model).requires_grad_(False).train(mode == "train")
    if compiled:
        network.compile()  # in place: its parts keep their names
    return network


@torch.no_grad()
def _take_over(network: nn.Module, model: nn.Module) -> None:
    """Give a copy of a network the network's present weights and statistics."""
    for own, other in zip(_tensors(network), _tensors(model), strict=True):
        own.copy_(other)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def rounded(network: nn.Module, autocast: torch.dtype | None) -> nn.Module:
    """Round weights once to the type that autocast would round them to in every step; the network is changed.

    The bits of its embeddings stay the same, and a ResNet-50 spares 55 of 253 launches a step. Plain convolutions
    and linear layers alone: of these it is certain.
    """
    for layer in network.modules() if autocast else ():
        if type(layer) in (nn.Conv2d, nn.Linear) and not is_parametrized(layer):
            layer.to(autocast)
    return network


def _on_cpu(model: nn.Module) -> bool:
    return all(own.device.type == "cpu" for own in model.parameters())


def folded(network: nn.Module) -> nn.Module:
    """Let convolutions take over the BatchNorm that follows them and is in evaluation mode; the network is changed.

    Of a plain sequence of modules alone, where it is certain that nothing else reads the convolution's output: all of a
    Conv4's, 4 of a ResNet-50's 53. The same function but for rounding (4e-7), and a quarter less time for a Conv4 on a
    CPU. BatchNorm that uses the batch's statistics cannot be folded.
    """
    for module, position, layer, following in list(_foldable(network)):
        module[position] = fuse_conv_bn_eval(layer.eval(), following).train(module.training)
        module[position + 1] = nn.Identity().train(module.training)
    return network


def _foldable(network: nn.Module) -> Iterator[tuple[nn.Sequential, int, nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the BatchNorm that can be folded into them, with their sequence and position."""
    for module in network.modules():
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            for position, (layer, following) in enumerate(pairwise(list(module))):
                # Exact types: a subclass computes something else, such as timm's BatchNorm with an activation.
                if type(layer) is not nn.Conv2d or type(following) is not nn.BatchNorm2d or is_parametrized(layer):
                    continue
                if following.running_mean is not None and not following.training:
                    yield module, position, layer, following


def distillation_loss(embeddings: Tensor, targets: Tensor, tau: float) -> Tensor:
    """Return tau^2 KL(targets || softmax of the student's similarities), averaged over the rows.

    Args:
        embeddings: The student's L2-normalised float tensor (N, D).
        targets: Target distributions (N, N), rows sum to 1.
        tau: Temperature, > 0, the one the targets were made with.

    Returns:
        A differentiable scalar, 0 where the student's similarities match the targets.

    Raises:
        ValueError: If the temperature or a shape is wrong.
    """
    check_temperature("tau", tau)
    log_probabilities = (similarities(embeddings) / tau).log_softmax(dim=1)
    size = f"({len(embeddings)}, {len(embeddings)})"
    check_floats("targets", targets, size)
    if targets.shape != log_probabilities.shape:
        raise ValueError(f"targets must be {size}, a row for each embedding, got {tuple(targets.shape)}")
    if targets.device != embeddings.device:
        raise ValueError(f"targets must be on the embeddings' device {embeddings.device}, got {targets.device}")
    return functional.kl_div(log_probabilities, targets, reduction="batchmean") * tau**2


def similarities(embeddings: Tensor) -> Tensor:
    """Return the inner products (N, N) of embeddings (N, D) in float32 or wider, also under autocast.

    Raises:
        ValueError: If the embeddings are no float tensor (N, D) with N >= 1.
    """
    check_floats("embeddings", embeddings, "(N, D) with N >= 1")
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(f"embeddings must be a float tensor (N, D) with N >= 1, got {tuple(embeddings.shape)}")
    with torch.autocast(embeddings.device.type, enabled=False):
        wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        return wide @ wide.T


def check_floats(name: str, tensor: Tensor, shape: str) -> None:
    """Raise ValueError unless `tensor` is a float tensor, which should have the shape that `shape` says."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        given = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name} must be a float tensor {shape}, got {given}")


def check_temperature(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value}")
