"""Distillation: what a method learns from beside the labels.

From a teacher's embeddings: a frozen dataclass with a temperature `tau` and `targets(teacher_embeddings) -> (N, N)`,
such as PSD and OBD-SD. From wider embeddings of the same network: S2SD. From other networks in training: DM².
"""

from dmlbench.modifiers.dm2 import DM2, relational_loss
from dmlbench.modifiers.obdsd import OBDSD, obdsd_targets
from dmlbench.modifiers.psd import PSD, distillation_loss, psd_targets
from dmlbench.modifiers.s2sd import S2SD, WiderEmbeddings

DISTILLATIONS: dict[str, type[PSD] | type[OBDSD] | type[S2SD] | type[DM2]] = {
    "psd": PSD,
    "obdsd": OBDSD,
    "s2sd": S2SD,
    "dm2": DM2,
}

__all__ = [
    "DISTILLATIONS",
    "DM2",
    "OBDSD",
    "PSD",
    "S2SD",
    "WiderEmbeddings",
    "distillation_loss",
    "obdsd_targets",
    "psd_targets",
    "relational_loss",
]
