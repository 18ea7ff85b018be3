"""The batches of Roth et al. 2020 (arXiv 2002.08473): classes and images drawn with replacement."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dmlbench.errors import UserError
from dmlbench.specs.cell import TrainingSpec


def epoch_steps(images: int, training: TrainingSpec) -> int:
    """Steps of an epoch: ``images // batch_size``, at least 1."""
    return max(1, images // training.batch_size)


class Sampler(Protocol):
    """Draws the batches of an epoch in place of the protocol's sampler."""

    def __call__(
        self,
        *,
        labels: NDArray[np.int64],
        steps: int,
        batch_size: int,
        samples_per_class: int,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Indices (steps, batch_size) into the N images, by their labels (N,); all that is drawn comes from `rng`."""


def drawn_indices(
    sampler: Sampler, labels: NDArray[np.int64], training: TrainingSpec, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of one epoch's batches by a user's sampler; raises UserError where they are not as `Sampler` says."""
    shape = epoch_steps(len(labels), training), training.batch_size
    sizes = {"batch_size": training.batch_size, "samples_per_class": training.samples_per_class}
    indices = np.asarray(sampler(labels=labels.copy(), steps=shape[0], rng=rng, **sizes))
    if indices.shape != shape or indices.dtype.kind not in "iu":
        given = f"{indices.dtype} {indices.shape}"
        raise UserError(f"a sampler must give whole numbers (steps, batch_size), here {shape}; it gives {given}")
    if indices.min() < 0 or indices.max() >= len(labels):
        raise UserError(f"a sampler must give indices in [0, {len(labels)}), not {indices.min()} to {indices.max()}")
    return indices.astype(np.int64)


def epoch_indices(labels: NDArray[np.int64], training: TrainingSpec, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices (steps, batch_size) of one epoch's batches, by labels (N,), contiguous from 0.

    Each of ``batch_size / samples_per_class`` draws picks a class uniformly with replacement, then
    `samples_per_class` of its images uniformly with replacement: a class may come twice, and so may an image. Images
    of one draw are neighbours.
    """
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    steps = epoch_steps(len(labels), training)
    draws = training.batch_size // training.samples_per_class
    classes = rng.integers(len(counts), size=(steps, draws, 1))
    within = rng.integers(counts[classes], size=(steps, draws, training.samples_per_class))
    drawn: NDArray[np.int64] = by_class[starts[classes] + within].reshape(steps, training.batch_size)
    return drawn
