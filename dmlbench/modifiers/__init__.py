"""What a method adds to its base: one modifier a file, with its settings, its mathematics and its hooks.

`Modifier` is the class of them all; a plugin subclasses it, or `Distillation` or `SelfDistillation`, which learn from a
teacher.
"""

from dmlbench.modifiers.base import BuildContext, ForwardOutput, Modifier, Network, StepContext, TeacherSettings
from dmlbench.modifiers.dm2 import DM2
from dmlbench.modifiers.ema import EMA, neighbourhood_loss
from dmlbench.modifiers.obdsd import OBDSD, obdsd_targets
from dmlbench.modifiers.psd import PSD, psd_targets
from dmlbench.modifiers.rkd import RKD, angular_loss, relational_loss
from dmlbench.modifiers.s2sd import S2SD
from dmlbench.modifiers.teachers import Distillation, SelfDistillation, distillation_loss
from dmlbench.modifiers.xbm import XBM

__all__ = [
    "DM2",
    "EMA",
    "OBDSD",
    "PSD",
    "RKD",
    "S2SD",
    "XBM",
    "BuildContext",
    "Distillation",
    "ForwardOutput",
    "Modifier",
    "Network",
    "SelfDistillation",
    "StepContext",
    "TeacherSettings",
    "angular_loss",
    "distillation_loss",
    "neighbourhood_loss",
    "obdsd_targets",
    "psd_targets",
    "relational_loss",
]
