"""Whose embeddings a distilled method learns from, for the images of a batch."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from dmlbench.data.loader import Batch
from dmlbench.specs.cell import TeacherMode


class Teacher(Protocol):
    """What the learner needs of a teacher; what it keeps from epoch to epoch goes into a `state_dict`."""

    def embeddings(self, batch: Batch, student: Tensor) -> Tensor | None:
        """Embeddings (B, D) of unit length for a batch, or None while there is nothing to learn from.

        Args:
            batch: Images, labels, and which images they are.
            student: The student's own embeddings (B, D) of the batch, detached.
        """

    def end_step(self, batch: Batch, student: Tensor) -> None:
        """Take from a step what later ones need; also of the first epoch, in which nothing is taught."""

    def end_epoch(self, model: nn.Module) -> None:
        """Take from the student what the next epoch needs."""


class PreviousEpoch:
    """The student as it was at the end of the previous epoch: a copy of the network, on the same batch.

    Zeng et al., arXiv 2211.07566. Their official code never puts the teacher in evaluation mode: unless the protocol
    freezes it, its BatchNorm uses the batch's statistics, as the student's does. The first epoch has no teacher.

    Args:
        mode: `train`, the official code's, or `eval`, in which BatchNorm uses the running statistics.
        fold: Whether the copy is `folded`; only a measurement of what that saves has it otherwise.
    """

    def __init__(self, mode: TeacherMode = "train", *, fold: bool = True) -> None:
        self.network: nn.Module | None = None
        self.mode = mode
        self._fold = fold

    def embeddings(self, batch: Batch, student: Tensor) -> Tensor | None:
        """The copy's embeddings of the very same augmented images.

        Dropout of a teacher in training mode draws from a copy of torch's global stream, so the student's stays.
        """
        if self.network is None:
            return None
        devices = [student.device] if student.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=self.mode == "train"):
            embeddings: Tensor = self.network(batch.images)
        return embeddings

    def end_step(self, batch: Batch, student: Tensor) -> None:
        """Nothing: within an epoch the copy stays as it is."""

    def end_epoch(self, model: nn.Module) -> None:
        """Become the student, with BatchNorm folded into convolutions where `folded` can tell that it is exact."""
        network = self._copy(model)
        self.network = folded(network) if self._fold else network

    def folds(self, model: nn.Module) -> bool:
        """Whether folding would change anything of the copy that it takes of a student."""
        return any(True for _ in _foldable(self._copy(model)))

    def _copy(self, model: nn.Module) -> nn.Module:
        return copy.deepcopy(model).requires_grad_(False).train(self.mode == "train")


class Memory(nn.Module):
    """The embeddings that the student itself gave to each image the last time it saw it: no second forward pass.

    They are of another augmentation, of older weights, and of training mode. An image that was not seen yet stands
    for itself, with the embedding it has just got. A method of this benchmark.

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

    def embeddings(self, batch: Batch, student: Tensor) -> Tensor:
        """What is remembered of the batch's images."""
        return torch.where(self.seen[batch.indices, None], self.kept[batch.indices], student)

    def end_step(self, batch: Batch, student: Tensor) -> None:
        """Remember the batch; of an image drawn twice, the later embedding where the protocol is deterministic."""
        self.kept[batch.indices] = student
        self.seen[batch.indices] = True

    def end_epoch(self, model: nn.Module) -> None:
        """Nothing to take: every step has left its embeddings."""


def folded(network: nn.Module) -> nn.Module:
    """A network changed in place: convolutions take over the BatchNorm that follows them and is in evaluation mode.

    Of a plain sequence of modules alone, for there it is certain that nothing else reads the convolution's output: all
    of a Conv4's, 4 of a ResNet-50's 53. The same function but for rounding (4e-7), and a quarter less time for a Conv4
    on a CPU. BatchNorm that uses the batch's statistics cannot be folded.
    """
    for module, place, layer, following in list(_foldable(network)):
        module[place] = fuse_conv_bn_eval(layer.eval(), following).train(module.training)
        module[place + 1] = nn.Identity().train(module.training)
    return network


def _foldable(network: nn.Module) -> Iterator[tuple[nn.Sequential, int, nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the BatchNorm that can be folded into them, with their sequence and place."""
    for module in network.modules():
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            for place, (layer, following) in enumerate(pairwise(list(module))):
                # Exact types: a subclass computes something else, such as timm's BatchNorm with an activation.
                if type(layer) is not nn.Conv2d or type(following) is not nn.BatchNorm2d or is_parametrized(layer):
                    continue
                if following.running_mean is not None and not following.training:
                    yield module, place, layer, following
