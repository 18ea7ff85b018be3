"""Which images make the batches of an epoch: the samplers of published protocols, and a user's.

- `replacement`: classes, then images of them, both with replacement (Roth et al. 2020, arXiv 2002.08473).
- `class-balanced`: every class once an epoch, with images of it that differ where it has enough (Ermolov et al. 2022,
  arXiv 2203.10833: `UniqueClassSempler` of the official code).
- `m-per-class`: images are dealt into groups of one class, and each batch takes groups of classes that differ (Wang et
  al. 2020, arXiv 1912.06798: `RandomIdentitySampler` of the official code of XBM).
- `shuffle`: images in random order (Kim et al. 2020, arXiv 2003.13911). The rest that fills no batch is left out.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dmlbench.errors import UserError
from dmlbench.specs.protocol_spec import TrainingSpec


def epoch_steps(classes: int, images: int, training: TrainingSpec) -> int:
    """Batches of an epoch, at least 1: once through what the sampler draws from, unless the protocol says how many.

    That is all images, or for `class-balanced` `samples_per_class` of each class.
    """
    if training.steps_per_epoch:
        return training.steps_per_epoch
    drawn = classes * training.samples_per_class if training.sampler == "class-balanced" else images
    return max(1, drawn // training.batch_size)


def check_ranks(ranks: int, batch_size: int) -> None:
    """Check that several GPUs can have equal parts of each batch; raises UserError where they cannot."""
    if batch_size % ranks:
        raise UserError(f"--gpus-per-cell {ranks}: training.batch_size {batch_size} is not a multiple of it")


def check_batches(classes: int, images: int, training: TrainingSpec) -> None:
    """Check that so many classes and images make the batches of a protocol, and that these make a training.

    Raises:
        UserError: where a batch needs more classes or images than there are, no update is ever due, or a warm-up takes
            all updates.
    """
    draws = training.batch_size // training.samples_per_class
    there, what = (images, "images") if training.sampler == "shuffle" else (classes, "classes")
    if training.sampler != "replacement" and there < draws:
        said = f"training.batch_size: sampler {training.sampler} needs {draws} {what} a batch, and there are {there}"
        raise UserError(said, hint=f"give at most {there * training.samples_per_class}")
    steps = training.epochs * epoch_steps(classes, images, training)
    updates = steps // training.accumulate
    if not updates:
        said = f"training.accumulate: {training.accumulate} batches make an update, and the training has {steps}"
        raise UserError(said, hint=f"give at most {steps}")
    if training.warmup and training.warmup.steps and training.warmup.steps >= updates:
        raise UserError(f"training.warmup.steps: {training.warmup.steps} is not below the {updates} of this training")


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
    shape = epoch_steps(int(labels.max()) + 1, len(labels), training), training.batch_size
    sizes = {"batch_size": training.batch_size, "samples_per_class": training.samples_per_class}
    indices = np.asarray(sampler(labels=labels.copy(), steps=shape[0], rng=rng, **sizes))
    if indices.shape != shape or indices.dtype.kind not in "iu":
        given = f"{indices.dtype} {indices.shape}"
        raise UserError(f"a sampler must give whole numbers (steps, batch_size), here {shape}; it gives {given}")
    if indices.min() < 0 or indices.max() >= len(labels):
        raise UserError(f"a sampler must give indices in [0, {len(labels)}), not {indices.min()} to {indices.max()}")
    return indices.astype(np.int64)


def epoch_indices(labels: NDArray[np.int64], training: TrainingSpec, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices (steps, batch_size) of one epoch's batches by the protocol's sampler; labels (N,) contiguous from 0.

    Images of one class are neighbours, `samples_per_class` of them, but for `shuffle`.

    Raises:
        UserError: where a batch needs more classes, or more images, than there are.
    """
    steps = epoch_steps(int(labels.max()) + 1, len(labels), training)
    draws = training.batch_size // training.samples_per_class
    if training.sampler == "replacement":
        return _with_replacement(labels, steps, draws, training.samples_per_class, rng)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    check_batches(int(labels.max()) + 1, len(labels), training)
    passes = {"class-balanced": _class_balanced, "m-per-class": _m_per_class, "shuffle": _shuffled}[training.sampler]
    batches: list[NDArray[np.int64]] = []
    while len(batches) < steps:
        batches += passes(by_class, draws, training.samples_per_class, rng)
    return np.stack(batches[:steps])


def _with_replacement(
    labels: NDArray[np.int64], steps: int, draws: int, per_class: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A class may come twice in a batch, and so may an image."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    classes = rng.integers(len(counts), size=(steps, draws, 1))
    within = rng.integers(counts[classes], size=(steps, draws, per_class))
    drawn: NDArray[np.int64] = by_class[starts[classes] + within].reshape(steps, draws * per_class)
    return drawn


def _class_balanced(
    by_class: list[NDArray[np.int64]], draws: int, per_class: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The batches of one pass over all classes."""
    chosen = [
        rng.choice(by_class[own], per_class, replace=len(by_class[own]) < per_class)
        for own in rng.permutation(len(by_class))
    ]
    return [np.concatenate(chosen[start : start + draws]) for start in range(0, len(chosen) - draws + 1, draws)]


def _m_per_class(
    by_class: list[NDArray[np.int64]], draws: int, per_class: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The batches of one pass over the images, until too few classes have groups left; a class's last group is filled.

    The more groups a class has left, the likelier it is drawn.
    """
    groups = [_dealt(own, per_class, rng) for own in by_class]
    left = np.array([len(own) for own in groups])
    batches = []
    while np.count_nonzero(left) >= draws:
        classes = rng.choice(len(left), draws, replace=False, p=left / left.sum())
        left[classes] -= 1
        batches.append(np.concatenate([groups[own][left[own]] for own in classes]))
    return batches


def _dealt(images: NDArray[np.int64], per_class: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The images of a class in random order, (groups, per_class); the last group is filled with images drawn again."""
    again = rng.choice(images, -len(images) % per_class)
    return rng.permutation(np.concatenate([images, again])).reshape(-1, per_class)


def _shuffled(
    by_class: list[NDArray[np.int64]], draws: int, per_class: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The batches of one pass over the images in random order."""
    order = rng.permutation(sum(map(len, by_class)))
    size = draws * per_class
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
