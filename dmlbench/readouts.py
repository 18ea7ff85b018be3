"""What a cell that trained several networks can be asked for: their mean, each of them, and all together.

`Evaluator.measure` names such metrics `member1/recall_at_1` or `ensemble/recall_at_1` beside the mean's `recall_at_1`;
in tables each readout is a row of its own, `ms+dm2{ensemble}`.
"""

import re
from collections.abc import Mapping
from typing import Any

MEAN = ""  # the readout of whoever trained one network, too
FIRST = "member1"  # the network that begins as the base's
ENSEMBLE = "ensemble"
NUMBERED = re.compile(r"(member)(\d+)")


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


def mark(readout: str, networks: int) -> str:
    """What every table says of a readout, with the number of networks that were trained."""
    if readout == ENSEMBLE:
        return f"{networks} networks side by side: {networks} forward passes at test time"
    return f"one of {networks} networks" if readout else f"mean over {networks} networks"


def is_of_one_member(name: str) -> bool:
    """Whether a method's name, as `named` gives it, is that of one network of several."""
    return "{member " in name
