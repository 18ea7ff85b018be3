"""Self-distillation with online batch diffusion (OBD-SD): PSD's targets spread over the batch manifold.

Zeng, Yang, Liu, Satoh, "Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric
Learning", arXiv 2211.07566; Visual Intelligence 2024.
"""

from numbers import Real
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from dmlbench.modifiers.teachers import SelfDistillation, check_temperature, similarities


class OBDSD(SelfDistillation):
    """OBD-SD with its settings.

    Args:
        lambda_: Weight of the distillation, >= 0.
        tau: Temperature of teacher and student, > 0.
        omega: Share of the diffusion, in [0, 1); 0 is PSD.
        tau_diffusion: Temperature of the affinities along which targets spread, > 0.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        *,
        lambda_: Annotated[float, Ge(0)] = 1.0,
        tau: Annotated[float, Gt(0)],
        omega: Annotated[float, Ge(0), Lt(1)],
        tau_diffusion: Annotated[float, Gt(0)],
    ) -> None:
        super().__init__(lambda_, tau)
        _check(tau, omega, tau_diffusion)
        self.omega, self.tau_diffusion = omega, tau_diffusion

    def targets(self, teacher_embeddings: Tensor) -> Tensor:
        """Return `obdsd_targets` (N, N) of the teacher's embeddings (N, D)."""
        return obdsd_targets(teacher_embeddings, self.tau, self.omega, self.tau_diffusion)


@torch.no_grad()
def obdsd_targets(teacher_embeddings: Tensor, tau: float, omega: float, tau_diffusion: float) -> Tensor:
    """Return the teacher's soft targets after diffusion over the batch to its fixed point.

    (1 - omega) (I - omega W)^-1 softmax(S / tau), with S the cosine similarities and W their row-wise softmax
    at `tau_diffusion` without the diagonal.

    Args:
        teacher_embeddings: L2-normalised float tensor (N, D).
        tau: Temperature of the targets, > 0.
        omega: Share of the diffusion, in [0, 1); 0 gives `psd_targets` exactly.
        tau_diffusion: Temperature of the affinities, > 0.

    Returns:
        Targets (N, N) without gradient, float32 or wider; rows sum to 1.

    Raises:
        ValueError: If a setting or the shape is wrong.
    """
    _check(tau, omega, tau_diffusion)
    similarity = similarities(teacher_embeddings)
    targets = (similarity / tau).softmax(dim=1)
    if omega == 0:
        return targets
    with torch.autocast(teacher_embeddings.device.type, enabled=False):
        # The lowest finite number, unlike -inf, keeps a batch of one free of NaN.
        lowest = torch.finfo(similarity.dtype).min
        affinities = (similarity / tau_diffusion).fill_diagonal_(lowest).softmax(dim=1)
        system = torch.eye(len(affinities), dtype=affinities.dtype, device=affinities.device) - omega * affinities
        # The system is diagonally dominant, so never singular: asking whether the solver failed would only
        # make the host wait. A series in W, the usual shortcut, converges too slowly for omega near 1.
        diffused: Tensor = torch.linalg.solve_ex(system, targets * (1 - omega), check_errors=False)[0]
        # Rows are not divided by their sums, 1 within 1e-5 at omega .99: the official code does not either, and
        # a large weight would make the difference visible.
        return diffused.clamp_(min=0)


def _check(tau: float, omega: float, tau_diffusion: float) -> None:
    check_temperature("tau", tau)
    check_temperature("tau_diffusion", tau_diffusion)
    if not isinstance(omega, Real) or not 0 <= omega < 1:
        raise ValueError(f"omega must lie in [0, 1), got {omega}")
