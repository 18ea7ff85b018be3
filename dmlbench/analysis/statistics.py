"""Means with intervals. A comparison is paired: seed by seed, never mean against mean."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean with the bounds of its interval; `n` counts the values. NaN bounds where n is below 2."""

    mean: float
    low: float
    high: float
    n: int


def t_interval(values: Iterable[float], confidence: float = 0.95) -> Estimate:
    """Mean and Student's t-interval of the mean; missing values are left out.

    mean +- t(n - 1) * s / sqrt(n), with s the sample standard deviation (n - 1). Student (1908), "The probable
    error of a mean", Biometrika 6. The same interval is used by Musgrave et al. 2020 (arXiv 2003.08505).

    Args:
        values: One value per seed, in any unit.
        confidence: Coverage, between 0 and 1.

    Returns:
        The estimate in the unit of the values. One value has a mean and no interval; none has neither.

    Raises:
        ValueError: where `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    sample = np.asarray(list(values), dtype=float)
    sample = sample[~np.isnan(sample)]
    n = len(sample)
    mean = float(sample.mean()) if n else float("nan")
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), n)
    # Not scipy's `t.interval`: with equal values (a weight of 0) its scale is 0 and its bounds are NaN.
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * sample.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(treated: pd.Series, control: pd.Series, confidence: float = 0.95) -> Estimate:
    """Mean of the differences `treated - control` per seed, with the paired t-interval.

    Args:
        treated: Values of a method, indexed by seed.
        control: Values of its base, indexed by seed; seeds that only one of the two has are left out.
        confidence: Coverage, between 0 and 1.

    Returns:
        The estimate in the unit of the values; `n` counts pairs.
    """
    pairs = _pairs(treated, control)
    return t_interval(pairs["treated"] - pairs["control"], confidence)


def log_ratio_interval(treated: pd.Series, control: pd.Series, confidence: float = 0.95) -> Estimate:
    """Geometric mean of the ratios `treated / control` per seed, with the t-interval of their logarithms.

    On logarithms twice as slow and twice as fast weigh the same, and the interval cannot reach below 0.
    Fleming and Wallace (1986), "How not to lie with statistics", CACM 29(3): ratios call for the geometric mean.

    Args:
        treated: Positive values (times) of a method, indexed by seed.
        control: Positive values of its base, indexed by seed, in the same unit.
        confidence: Coverage, between 0 and 1.

    Returns:
        The ratio, without a unit; `n` counts pairs.

    Raises:
        ValueError: where a value is not positive.
    """
    pairs = _pairs(treated, control)
    if (pairs <= 0).any(axis=None):
        raise ValueError("a ratio of times needs positive times")
    logs = t_interval(np.log(pairs["treated"]) - np.log(pairs["control"]), confidence)
    mean, low, high = (float(np.exp(value)) for value in (logs.mean, logs.low, logs.high))
    return Estimate(mean, low, high, logs.n)


def _pairs(treated: pd.Series, control: pd.Series) -> pd.DataFrame:
    """The values of the seeds that both have, as floats: control left, treated right."""
    return pd.concat({"control": control, "treated": treated}, axis=1, join="inner").astype(float).dropna()
