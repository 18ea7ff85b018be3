"""Batches for training and evaluation; the number of workers never changes a bit of them.

Workers decode, crop and resize in 8 bits; the device normalises. On CUDA the next batch is copied while the device
works on this one.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dmlbench.data.augment import (
    EvaluationView,
    augment,
    evaluation_images,
    normalise,
    training_source,
    uniforms_per_image,
)
from dmlbench.data.images import Split
from dmlbench.data.samplers import Sampler, drawn_indices, epoch_indices, epoch_steps
from dmlbench.errors import UserError
from dmlbench.seeding import stream
from dmlbench.specs.protocol_spec import InputSpec, ProtocolSpec


class Batch(NamedTuple):
    """A training batch on its device.

    Attributes:
        images: (B, C, H, W) float32, normalised, in the protocol's memory layout; where the loader prepares a part of
            each batch, that part alone.
        labels: (B,) int64.
        indices: (B,) int64, the index of each image in the training split; an image may be drawn twice.
        others: Further augmentations of the same images, each like `images`, where a method asks for them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    others: tuple[Tensor, ...] = ()

    def view(self, number: int) -> Tensor:
        """An augmentation of the images, counted from 0."""
        return self.others[number - 1] if number else self.images


Host = TypeVar("Host")
Ready = TypeVar("Ready", Tensor, Batch)


def ahead(
    batches: Iterable[Host], finish: Callable[[Host], Ready], device: torch.device
) -> Generator[Ready, None, None]:
    """Finish batches for a device; on CUDA the next one is copied and finished while the device works on this one.

    Args:
        batches: Host batches, page-locked for CUDA.
        finish: Copies one to the device without blocking, and finishes it there; gives tensors of the device.
        device: Where they are wanted.
    """
    if device.type != "cuda":
        yield from map(finish, batches)
        return
    side, current = _side_stream(device), torch.cuda.current_stream(device)
    waiting: list[tuple[Ready, torch.cuda.Event]] = []
    for batch in batches:
        with torch.cuda.stream(side):
            ready = finish(batch)
            waiting.append((ready, side.record_event()))
        if len(waiting) > 1:
            yield _handed_over(*waiting.pop(0), current)
    for item in waiting:
        yield _handed_over(*item, current)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of copies, one a device: memory that another stream has used is not given to this one again."""
    return torch.cuda.Stream(device)


def _handed_over(ready: Ready, done: torch.cuda.Event, current: torch.cuda.Stream) -> Ready:
    """Let the training stream wait for a batch, and the allocator know that it uses it."""
    current.wait_event(done)
    parts = (*ready[:3], *ready.others) if isinstance(ready, Batch) else (ready,)
    for tensor in parts:
        tensor.record_stream(current)
    return ready


# (B,) indices of images, uniforms (views, B, columns), and a seed (views, B) for each call of a user's augmentation.
Recipe = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64] | None]
Augmentation = Callable[[Tensor], Tensor]  # (C, H, W) uint8 or float32 -> the same; draws from torch's global generator

CPU = torch.device("cpu")
KEPT_EVALUATION_BYTES = 2 << 30


HostBatch = tuple[list[Tensor], Tensor, Tensor]  # a list of views


class TrainingBatches:
    """The training batches of one seed: a pure function of (split, protocol, seed, epoch).

    Args:
        split: Training classes.
        protocol: Its `input` and `training` sections are read.
        seed: The cell's seed.
        device: Where batches are wanted.
        data_workers: Processes that prepare batches; 0 prepares them in the calling process.
        views: Augmentations of each image; more of them leave the first as it is.
        sampler: Draws the batches in place of the protocol's sampler.
        augmentation: Changes each image after the protocol's augmentation.
        part: Which images of each batch to prepare; labels and indices are those of the whole batch.

    Use it as a context manager, or call `close`: workers live until then.
    """

    def __init__(
        self,
        split: Split,
        protocol: ProtocolSpec,
        seed: int,
        device: torch.device = CPU,
        data_workers: int = 0,
        *,
        views: int = 1,
        sampler: Sampler | None = None,
        augmentation: Augmentation | None = None,
        part: slice = slice(None),
    ) -> None:
        self._views, self._sampler, self._augmentation = views, sampler, augmentation
        # A copy: handing the split to spawned workers moves its memory away from under a NumPy view.
        self._labels = split.labels.numpy().copy()
        self.steps = epoch_steps(int(self._labels.max()) + 1, len(self._labels), protocol.training)
        self._protocol = protocol
        self._seed = seed
        self._device = device
        self._recipes: list[Recipe] = []
        self._epoch: Generator[Batch, None, None] | None = None
        self._loader: DataLoader[HostBatch] | None = DataLoader(
            _BatchMaker(split, protocol.input, augmentation, part),
            batch_size=None,  # a recipe is a whole batch
            sampler=self._recipes,
            persistent_workers=data_workers > 0,
            **_loader_options(device, data_workers),
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield `steps` batches on the device. One epoch runs at a time."""
        if self._loader is None:
            raise RuntimeError("these batches are closed")
        if self._epoch is not None:
            self._epoch.close()
        self._epoch = self._batches(self._loader, epoch)
        return self._epoch

    def close(self) -> None:
        """End the workers, also in the middle of an epoch."""
        if self._epoch is not None:
            self._epoch.close()
        self._epoch = self._loader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self, loader: "DataLoader[HostBatch]", epoch: int) -> Generator[Batch, None, None]:
        training, columns = self._protocol.training, uniforms_per_image(self._protocol.input)
        rng = stream(self._seed, epoch, "sampler")
        if self._sampler is None:
            indices = epoch_indices(self._labels, training, rng)
        else:
            indices = drawn_indices(self._sampler, self._labels, training, rng)
        # One row per position in the epoch: two draws of one image differ, whichever worker prepares them.
        purposes = ["augmentation", *(f"augmentation, view {view}" for view in range(1, self._views))]
        uniforms = [stream(self._seed, epoch, purpose).random((*indices.shape, columns)) for purpose in purposes]
        seeds = None
        if self._augmentation is not None:
            shape = (len(indices), self._views, indices.shape[1])
            seeds = stream(self._seed, epoch, "augmentation, plugin").integers(2**63, size=shape)
        self._recipes[:] = [
            (own, views, None if seeds is None else seeds[step])
            for step, (own, views) in enumerate(zip(indices, np.stack(uniforms, axis=1), strict=True))
        ]
        yield from ahead(_in_one_line(loader), self._finished, self._device)

    def _finished(self, batch: HostBatch) -> Batch:
        views, *rest = batch
        spec, training = self._protocol.input, self._protocol.training
        layout = torch.channels_last if training.channels_last else torch.contiguous_format
        images, *others = (
            normalise(view.to(self._device, non_blocking=True), spec).contiguous(memory_format=layout) for view in views
        )
        labels, indices = (part.to(self._device, non_blocking=True) for part in rest)
        return Batch(images, labels, indices, tuple(others))


class EvaluationBatches:
    """The images of a split in order, in evaluation geometry; the 8-bit results are kept if they are small.

    Args:
        split: Any classes.
        protocol: Its `input` section is read.
        batch_size: Images per batch (the last may hold fewer); the protocol's by default.
        device: Where batches are wanted.
        data_workers: Processes that decode and resize files; images in memory need none.

    Iterating yields normalised float32 (B, C, H, W) on the device.
    """

    def __init__(
        self,
        split: Split,
        protocol: ProtocolSpec,
        batch_size: int | None = None,
        device: torch.device = CPU,
        data_workers: int = 0,
    ) -> None:
        self._spec = protocol.input
        self._device = device
        self._batch_size = batch_size or protocol.evaluation.batch_size
        self._data_workers = data_workers
        size = len(split.labels) * self._spec.channels * self._spec.size**2
        self._keep = size <= KEPT_EVALUATION_BYTES
        self._count = len(split.images)
        self._images: Sequence[Tensor] | EvaluationView = EvaluationView(split.images, self._spec)
        if isinstance(split.images, Tensor) and self._keep:
            self._images = self._locked(evaluation_images(split.images, self._spec)).split(self._batch_size)

    def __len__(self) -> int:
        return math.ceil(self._count / self._batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        batches = self._made(self._images) if isinstance(self._images, EvaluationView) else self._images
        return ahead(batches, self._finished, self._device)

    def _made(self, images: EvaluationView) -> Iterator[Tensor]:
        """Batches made from files, remembered on the first complete pass where they are small."""
        options = _loader_options(self._device, self._data_workers)
        loader: DataLoader[Tensor] = DataLoader(images, self._batch_size, **options)
        seen = []
        for batch in _in_one_line(loader):
            if self._keep:
                seen.append(batch)
            yield batch
        if self._keep:
            self._images = seen  # as they are: one tensor of them would be a second copy, and its locking a third

    def _locked(self, images: Tensor) -> Tensor:
        """Page-locked for CUDA, so that copies do not make the host wait."""
        return images.pin_memory() if self._device.type == "cuda" else images

    def _finished(self, images: Tensor) -> Tensor:
        return normalise(images.to(self._device, non_blocking=True), self._spec)


def _in_one_line(loader: "DataLoader[Host]") -> Iterator[Host]:
    """Batches of a loader; a worker's error is raised as if it had happened in this process, without its traceback."""
    try:
        yield from loader
    except UserError as error:
        message = error.unshortened.splitlines()[-1]
        raise UserError(message.removeprefix(f"{UserError.__module__}.UserError: ")) from error


class _BatchMaker(Dataset[HostBatch]):
    """Makes the batch of a recipe; without state, so that any process may make any batch."""

    def __init__(self, split: Split, spec: InputSpec, augmentation: Augmentation | None, part: slice) -> None:
        self._augmentation, self._part = augmentation, part
        self._source = training_source(split.images, spec)
        self._labels = split.labels
        self._spec = spec

    def __getitem__(self, recipe: Recipe) -> HostBatch:
        indices, uniforms, seeds = recipe
        chosen_images = torch.from_numpy(indices)
        views = [augment(self._source, indices[self._part], own[self._part], self._spec) for own in uniforms]
        if seeds is not None and self._augmentation is not None:
            pairs = zip(views, seeds[:, self._part].tolist(), strict=True)
            views = [_augmented(view, own, self._augmentation) for view, own in pairs]
        return views, self._labels[chosen_images], chosen_images


def _augmented(images: Tensor, seeds: list[int], augmentation: Augmentation) -> Tensor:
    """Images (B, C, H, W), each augmented under its own seed, whichever process prepares it and in whatever order."""
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds, strict=True):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: a GPU's stream is the training's
            changed.append(augmentation(image))
    return torch.stack(changed)


def _loader_options(device: torch.device, data_workers: int) -> dict[str, Any]:
    # The generator is unused, but the default would advance torch's global stream.
    return {"num_workers": data_workers, "generator": torch.Generator(), "pin_memory": device.type == "cuda"}
