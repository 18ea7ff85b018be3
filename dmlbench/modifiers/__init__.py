"""What a method adds to its base: one modifier a file, with its settings, its mathematics and its hooks.

`Modifier` is the class of them all; a plugin subclasses it, or `SelfDistillation`, which learns from a teacher.
"""

from dmlbench.modifiers.base import BuildContext, ForwardOutput, Modifier, Network, StepContext, TeacherSettings
from dmlbench.modifiers.dm2 import DM2, relational_loss
from dmlbench.modifiers.obdsd import OBDSD, obdsd_targets
from dmlbench.modifiers.psd import PSD, psd_targets
from dmlbench.modifiers.s2sd import S2SD
from dmlbench.modifiers.teachers import SelfDistillation, distillation_loss

__all__ = [
    "DM2",
    "OBDSD",
    "PSD",
    "S2SD",
    "BuildContext",
    "ForwardOutput",
    "Modifier",
    "Network",
    "SelfDistillation",
    "StepContext",
    "TeacherSettings",
    "distillation_loss",
    "obdsd_targets",
    "psd_targets",
    "relational_loss",
]
