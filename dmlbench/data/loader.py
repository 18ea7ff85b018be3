"""Batches for training and evaluation; the number of workers never changes a bit of them."""

import math
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dmlbench.data.augment import augment, evaluation_geometry, normalise, training_source, uniforms_per_image
from dmlbench.data.images import Split
from dmlbench.data.sampler import epoch_indices, epoch_steps
from dmlbench.randomness import stream
from dmlbench.spec import InputSpec, ProtocolSpec

Batch = tuple[Tensor, Tensor]
Recipe = tuple[NDArray[np.int64], NDArray[np.float64]]

CACHED_EVALUATION_BYTES = 512 << 20


class TrainingBatches:
    """The training batches of one seed: a pure function of (split, protocol, seed, epoch).

    Args:
        split: Training classes.
        protocol: Its `input` and `training` sections are read.
        seed: The cell's seed.
        data_workers: Processes that prepare batches; 0 prepares them in the calling process.
        pin_memory: Page-locked batches, for fast copies to a GPU.

    Use it as a context manager, or call `close`: workers live until then.
    """

    def __init__(
        self,
        split: Split,
        protocol: ProtocolSpec,
        seed: int,
        data_workers: int = 0,
        *,
        pin_memory: bool = False,
    ) -> None:
        self.steps = epoch_steps(len(split.labels), protocol.training)
        # A copy: handing the split to spawned workers moves its memory away from under a NumPy view.
        self._labels = split.labels.numpy().copy()
        self._protocol = protocol
        self._seed = seed
        self._recipes = _Recipes()
        self._epoch: Generator[Batch, None, None] | None = None
        self._loader: DataLoader[Batch] | None = DataLoader(
            _BatchMaker(split, protocol.input),
            batch_size=None,  # a recipe is a whole batch
            sampler=self._recipes,
            num_workers=data_workers,
            persistent_workers=data_workers > 0,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # unused, but the default would advance torch's global stream
            pin_memory=pin_memory,
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield `steps` pairs: float32 images (B, C, H, W), int64 labels (B,). One epoch runs at a time."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _batches(self, loader: "DataLoader[Batch]", epoch: int) -> Generator[Batch, None, None]:
        training, columns = self._protocol.training, uniforms_per_image(self._protocol.input)
        indices = epoch_indices(self._labels, training, stream(self._seed, epoch, "sampler"))
        # One row per position in the epoch: two draws of one image differ, whoever prepares them.
        uniforms = stream(self._seed, epoch, "augmentation").random((*indices.shape, columns))
        self._recipes.current = list(zip(indices, uniforms, strict=True))
        yield from loader


class EvaluationBatches:
    """The images of a split in order, in evaluation geometry; the transformed images are kept if they are small.

    Args:
        split: Any classes.
        protocol: Its `input` section is read.
        batch_size: Images per batch (the last may hold fewer); the protocol's by default.

    Iterating yields float32 (B, C, H, W).
    """

    def __init__(self, split: Split, protocol: ProtocolSpec, batch_size: int | None = None) -> None:
        self._spec = protocol.input
        self._batch_size = batch_size or protocol.evaluation.batch_size
        size = 4 * len(split.images) * self._spec.channels * self._spec.size**2
        self._ready = size <= CACHED_EVALUATION_BYTES
        self._images = self._transformed(split.images) if self._ready else split.images

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._images.split(self._batch_size):
            yield batch if self._ready else self._transformed(batch)

    def _transformed(self, images: Tensor) -> Tensor:
        return normalise(evaluation_geometry(images, self._spec), self._spec)


class _BatchMaker(Dataset[Batch]):
    """Makes the batch of a recipe; without state, so that any process may make any batch."""

    def __init__(self, split: Split, spec: InputSpec) -> None:
        self._source = training_source(split.images, spec)
        self._labels = split.labels
        self._spec = spec

    def __getitem__(self, recipe: Recipe) -> Batch:
        indices, uniforms = recipe
        chosen = torch.from_numpy(indices)
        return augment(self._source[chosen], uniforms, self._spec), self._labels[chosen]


class _Recipes(Sampler[Recipe]):
    """Hands the current epoch's batches (indices, uniforms) to the loader in order."""

    def __init__(self) -> None:
        self.current: list[Recipe] = []

    def __iter__(self) -> Iterator[Recipe]:
        return iter(self.current)

    def __len__(self) -> int:
        return len(self.current)


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
