"""The batches of Roth et al. 2020 (arXiv 2002.08473): classes and images drawn with replacement."""

import numpy as np
from numpy.typing import NDArray

from dmlbench.specs.cell import TrainingSpec


def epoch_steps(images: int, training: TrainingSpec) -> int:
    """Steps of an epoch: ``images // batch_size``, at least 1."""
    return max(1, images // training.batch_size)


def epoch_indices(labels: NDArray[np.int64], training: TrainingSpec, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of one epoch's batches.

    Each of ``batch_size / samples_per_class`` draws picks a class uniformly with replacement, then
    `samples_per_class` of its images uniformly with replacement: a class may come twice, and so may an image.

    Args:
        labels: (N,), contiguous from 0.
        training: `batch_size` and `samples_per_class`.
        rng: The epoch's sampler stream.

    Returns:
        (steps, batch_size) indices into the N images; images of one draw are neighbours.
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
