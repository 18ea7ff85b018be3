"""What every loss asks of a batch: its checks, its precision, its positive and negative pairs."""

import math

import torch
from torch import Tensor


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value}")


def check_non_negative(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number of at least 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `valid`."""
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, valid))}, got {value!r}")


def full_precision(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Check the shapes and types of a batch and widen half-precision embeddings to float32.

    Args:
        embeddings: Float tensor (N, D), N >= 1.
        labels: Integer tensor (N,).

    Returns:
        The embeddings (N, D) in float32, or in float64 if they were.

    Raises:
        ValueError: If a shape or type is wrong.
    """
    if embeddings.ndim != 2 or len(embeddings) == 0 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be a float tensor (N, D) with N >= 1, got {embeddings.dtype} {tuple(embeddings.shape)}"
        )
    if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be an integer tensor ({len(embeddings)},), one for each embedding, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mark the pairs of one class and the pairs of two.

    Args:
        labels: Integer tensor (N,).

    Returns:
        Two boolean tensors (N, N): positive pairs, without the diagonal, and negative pairs.
    """
    same = labels[:, None] == labels
    negative = ~same
    return same.fill_diagonal_(fill_value=False), negative


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average `values` (N,) over `mask` (N,) without leaving the device; 0 where the mask is empty."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)
