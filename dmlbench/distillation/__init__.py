"""The name that `dmlbench.modifiers` had: its functions can be imported from here, too."""

from dmlbench.modifiers import distillation_loss, obdsd_targets, psd_targets

__all__ = ["distillation_loss", "obdsd_targets", "psd_targets"]
