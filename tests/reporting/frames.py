"""Parts of the frames that tables are made of, named as reports name them."""

import pandas as pd

from dmlbench.analysis import comparisons, estimates
from dmlbench.analysis.groups import Group
from dmlbench.reporting.naming import named
from tests.typed import NONE

GLYPHS = Group("conv4-64", NONE, "glyphs")


def pick(frame: pd.DataFrame, **wanted):
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def accuracy(values):
    return named(estimates.accuracy(values))


def optimism(values):
    return named(estimates.optimism(values))


def compared(pairs, values):
    return named(comparisons.comparisons(pairs, values))


def differences(values):
    return comparisons.primary(compared(comparisons.seed_pairs(values), values))
