"""What a cell that trained several networks can be asked for: their mean, each of them, and all together.

`Evaluator.measure` names such metrics `member1/recall_at_1` or `ensemble/recall_at_1` beside the mean's `recall_at_1`;
in tables each readout is a row of its own, `ms+dm2{ensemble}`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

MEAN = ""  # the readout of whoever trained one network, too
FIRST = "member1"  # the network that begins as the base's
ENSEMBLE = "ensemble"
NUMBERED = re.compile(r"(member)(\d+)")
READOUT = re.compile(r"\{(?:member \d+|ensemble)\}")


def by_readout(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics by readout and name; of a single network there is but `MEAN`."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in metrics.items():
        readout, _, name = key.rpartition("/")
        found.setdefault(readout, {})[name] = value
    return found


def named(name: str, readout: str) -> str:
    """A method's or modifier's name with the readout: `dm2{member 1}`; as it is for the mean."""
    spaced = NUMBERED.sub(r"\1 \2", readout)
    return f"{name}{{{spaced}}}" if readout else name


def whole(name: str) -> str:
    """A method's or modifier's name without its readout: that of what was trained."""
    return READOUT.sub("", name)


def of_kept_embeddings(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that kept embeddings belong to: of several networks the first's.

    Args:
        rows: Rows of `load_results`, or part of it; where those of the first network were left out, none remain.
    """
    several = rows["networks"].astype(int) > 1
    return rows[rows["readout"] == np.where(several, FIRST, MEAN)]


def mark(readout: str, networks: int) -> str:
    """What every table says of a readout, with the number of networks that were trained."""
    if readout == ENSEMBLE:
        return f"{networks} networks side by side: {networks} forward passes, {networks} x the dimensions at test time"
    return f"one of {networks} networks" if readout else f"mean over {networks} networks"


def is_of_one_member(name: str) -> bool:
    """Whether a method's name, as `named` gives it, is that of one network of several."""
    return "{member " in name
