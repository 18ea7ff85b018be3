"""Parts of the frames that tables are made of."""

import pandas as pd

from dmlbench.analysis.comparisons import comparisons, seed_pairs, to_base
from dmlbench.analysis.groups import Group

GLYPHS = Group("conv4-64", "", "glyphs")


def pick(frame: pd.DataFrame, **wanted):
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def differences(values):
    return to_base(comparisons(seed_pairs(values), values))
