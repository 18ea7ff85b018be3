"""Progressive self-distillation (PSD): the teacher's similarities within the batch are soft targets.

Zeng, Yang, Liu, Satoh, "Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric
Learning", arXiv 2211.07566; Visual Intelligence 2024.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from dmlbench.modifiers.teachers import SelfDistillation, check_temperature, similarities


class PSD(SelfDistillation):
    """PSD with its settings.

    Args:
        lambda_: Weight of the distillation, >= 0.
        tau: Temperature of teacher and student, > 0.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(self, *, lambda_: Annotated[float, Ge(0)] = 1.0, tau: Annotated[float, Gt(0)]) -> None:
        super().__init__(lambda_, tau)

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
