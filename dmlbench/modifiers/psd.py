"""Progressive self-distillation (PSD): the teacher's similarities within the batch are soft targets.

Zeng, Yang, Liu, Satoh, "Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric
Learning", arXiv 2211.07566; Visual Intelligence 2024.
"""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class PSD:
    """PSD with its settings.

    Args:
        tau: Temperature of teacher and student, > 0.

    Raises:
        ValueError: If the temperature is out of range.
    """

    tau: float

    def __post_init__(self) -> None:
        check_temperature("tau", self.tau)

    def targets(self, teacher_embeddings: Tensor) -> Tensor:
        """Return `psd_targets` (N, N) of the teacher's embeddings (N, D)."""
        return psd_targets(teacher_embeddings, self.tau)


@torch.no_grad()
def psd_targets(teacher_embeddings: Tensor, tau: float) -> Tensor:
    """Return the softmax of the teacher's cosine similarities, row by row, the diagonal included.

    Args:
        teacher_embeddings: L2-normalised float tensor (N, D).
        tau: Temperature, > 0.

    Returns:
        Targets (N, N) without gradient, float32 or wider; rows sum to 1.

    Raises:
        ValueError: If the temperature or the shape is wrong.
    """
    check_temperature("tau", tau)
    return (similarities(teacher_embeddings) / tau).softmax(dim=1)


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
