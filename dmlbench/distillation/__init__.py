"""Relational self-distillation: soft targets from a teacher's embeddings, and the loss towards them.

A distillation is a frozen dataclass with a temperature `tau` and `targets(teacher_embeddings) -> (N, N)`.
"""

from dmlbench.distillation.obdsd import OBDSD, obdsd_targets
from dmlbench.distillation.psd import PSD, distillation_loss, psd_targets

DISTILLATIONS: dict[str, type[PSD] | type[OBDSD]] = {"psd": PSD, "obdsd": OBDSD}

__all__ = ["DISTILLATIONS", "OBDSD", "PSD", "distillation_loss", "obdsd_targets", "psd_targets"]
