"""Tuning with an equal budget: every method the same number of trials, scored on held-out training classes."""

from dmlbench.tuning.study import Study, Trial, open_storage
from dmlbench.tuning.subject import HELD_OUT, Subject, TuningRequest, plan_tuning
from dmlbench.tuning.trials import STORAGE, Tuning, tune

__all__ = [
    "HELD_OUT",
    "STORAGE",
    "Study",
    "Subject",
    "Trial",
    "Tuning",
    "TuningRequest",
    "open_storage",
    "plan_tuning",
    "tune",
]
