"""Training-time overhead of modified methods over their own base, from the phase clock of ordinary runs.

The step times are those that training wrote down. Runs may have shared their machine, so this is a first reading,
not an isolated measurement with the two methods interleaved in one process.
"""

from dataclasses import asdict

import pandas as pd

from dmlbench.analysis.groups import GROUP, done, paired_with_base
from dmlbench.analysis.statistics import log_ratio_interval

KEYS = [*GROUP, "method", "base", "modifier"]
CAVEAT = (
    "From the phase clock of ordinary runs, without the wait for data; they may have shared their machine, so it is a "
    "first reading, not an isolated, interleaved measurement."
)


def step_time_pairs(arranged: pd.DataFrame) -> pd.DataFrame:
    """Step times (ms) of every modified method and of its base, per seed, with the machine of each.

    Args:
        arranged: Results after `groups.arrange`.

    Returns:
        One row per seed that both have: `KEYS`, seed, marks, step_ms, step_ms_base, machine, machine_base.
    """
    cells = done(arranged).drop_duplicates("folder")
    cells = cells.assign(machine=cells["machine"].fillna("")).dropna(subset=["step_ms"])
    pairs = paired_with_base(cells, GROUP, ["step_ms", "machine"])
    return pairs[[*KEYS, "seed", "marks", "step_ms", "step_ms_base", "machine", "machine_base"]]


def overhead(arranged: pd.DataFrame) -> pd.DataFrame:
    """Ratio of a method's step time to its own base's: same protocol, settings, dataset, seed and machine.

    Args:
        arranged: Results after `groups.arrange`.

    Returns:
        One row per method with a base: `KEYS`, marks, mean (geometric), low, high (95% t-interval on logarithms)
        and n of the ratio; step_ms and step_ms_base, the geometric means in milliseconds; `other_machine`, the
        number of pairs left out because the two ran on different machines.
    """
    columns = [*KEYS, "marks", "mean", "low", "high", "n", "step_ms", "step_ms_base", "other_machine"]
    rows = []
    for key, pairs in step_time_pairs(arranged).groupby(KEYS, sort=False):
        here = pairs[pairs["machine"] == pairs["machine_base"]].set_index("seed")
        ratio = asdict(log_ratio_interval(here["step_ms"], here["step_ms_base"]))
        times = {name: _geometric_mean(here[name]) for name in ("step_ms", "step_ms_base")}
        dropped = {"other_machine": len(pairs) - len(here), "marks": pairs["marks"].iloc[0]}
        rows.append(dict(zip(KEYS, key, strict=True)) | ratio | times | dropped)
    return pd.DataFrame(rows, columns=columns)


def _geometric_mean(times: pd.Series) -> float:
    return log_ratio_interval(times, pd.Series(1.0, index=times.index)).mean
