"""Tuning with an equal budget of epochs: values are chosen by MAP@R in class-disjoint folds of the training classes."""

from dmlbench.tuning.sampling import candidates
from dmlbench.tuning.schedule import FOLDS, Outcome, Request, Schedule, Stage, decide, halving, make_schedule
from dmlbench.tuning.subject import SEEDS, Subject, TuningRequest, plan_tuning
from dmlbench.tuning.trials import Runner, Trial, Tuning, tune

__all__ = [
    "FOLDS",
    "SEEDS",
    "Outcome",
    "Request",
    "Runner",
    "Schedule",
    "Stage",
    "Subject",
    "Trial",
    "Tuning",
    "TuningRequest",
    "candidates",
    "decide",
    "halving",
    "make_schedule",
    "plan_tuning",
    "tune",
]
