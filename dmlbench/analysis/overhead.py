"""Training-time overhead of modified methods over their own base, from the phase clock of ordinary runs.

The step times are those that training wrote down. Runs may have shared their machine, so this is a first reading,
not an isolated measurement with the two methods interleaved in one process.
"""

from dataclasses import asdict

import pandas as pd

from dmlbench.analysis.groups import GROUP, done, paired_with_base
from dmlbench.analysis.statistics import log_ratio_interval
from dmlbench.readouts import is_of_one_member

KEYS = [*GROUP, "method", "base", "modifier"]
TOTALS = ("time/train_s", "time/evaluation_s")
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
    # Whoever wants the mean of several networks, or all side by side, pays for the training of all.
    cells = done(arranged).drop_duplicates(["folder", "method"])
    cells = cells[~cells["method"].map(is_of_one_member).astype(bool)]
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


def phase_times(history: pd.DataFrame) -> pd.DataFrame:
    """Where a training step's time goes: milliseconds a step in each phase of the clock.

    A seed's value is the median over its epochs from the second, for the first warms up. The number of steps of an
    epoch follows from its step time, which is the sum of all phases but the wait for data.

    Args:
        history: Rows of `load_history` after `groups.arrange`.

    Returns:
        One row per phase, in the order of a step: `KEYS`, phase, ms (mean over seeds), n (seeds).
    """
    kept = [
        name for name in map(str, history) if name.startswith("time/") and name.endswith("_s") and name not in TOTALS
    ]
    trained = history[history["epoch"] > 1]
    if trained.empty or not kept:
        return pd.DataFrame(columns=[*KEYS, "phase", "ms", "n"])
    steps = 1000 * trained[[name for name in kept if name != "time/data_s"]].sum(axis=1) / trained["time/step_ms"]
    per_step = trained[kept].mul(1000).div(steps, axis=0)
    per_step.columns = [name.removeprefix("time/").removesuffix("_s") for name in kept]
    long = trained[[*KEYS, "seed"]].join(per_step).melt([*KEYS, "seed"], var_name="phase", value_name="ms")
    seeds = long.dropna(subset=["ms"]).groupby([*KEYS, "phase", "seed"], sort=False)["ms"].median()
    return (
        seeds.groupby([*KEYS, "phase"], sort=False)
        .agg(["mean", "count"])
        .reset_index()
        .rename(columns={"mean": "ms", "count": "n"})
    )


def _geometric_mean(times: pd.Series) -> float:
    return log_ratio_interval(times, pd.Series(1.0, index=times.index)).mean
