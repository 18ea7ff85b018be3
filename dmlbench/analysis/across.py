"""Methods over several datasets of one protocol: interquartile mean, average rank, critical difference."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dmlbench.analysis.estimates import METHOD, UNTRAINED

PLACE = ["protocol", "variant", "selection", "metric"]
RESAMPLES = 5000
DATASETS_FOR_RANKS = 6  # below, not even a method that is better on every dataset can be told apart (2^(1 - 5) > .05)


def over_datasets(values: pd.DataFrame) -> pd.DataFrame:
    """Every method's interquartile mean and average rank over the datasets that all methods of a place have.

    The interquartile mean leaves out the lowest and highest quarter of all runs of all datasets; its 95% interval is
    a percentile bootstrap that resamples runs within each dataset (stratified). Agarwal et al. 2021, "Deep RL at the
    Edge of the Statistical Precipice" (arXiv 2108.13264). With few seeds it covers less than 95%.

    Args:
        values: As `estimates.seed_values` returns them.

    Returns:
        Columns `PLACE`, `METHOD`, iqm, low, high, rank, datasets, n (runs). One row per method of a protocol,
        selection and metric that has at least two datasets and two methods; methods without a result on one of the
        datasets that others have are left out.
    """
    rows: list[dict[str, Any]] = []
    trained = values[values["selection"] != UNTRAINED]
    for place, part in trained.groupby(PLACE, sort=False):
        complete = _complete(part)
        if complete["dataset"].nunique() < 2 or complete["method"].nunique() < 2:
            continue
        ranks = average_ranks(complete)
        for method, own in complete.groupby("method", sort=False):
            names = {key: own[key].iloc[0] for key in METHOD}
            runs = [dataset["value"].to_numpy(float) for _, dataset in own.groupby("dataset")]
            iqm, low, high = interquartile_mean(runs)
            figures = {"iqm": iqm, "low": low, "high": high, "rank": ranks[method]}
            counts = {"datasets": len(runs), "n": len(own)}
            rows.append(dict(zip(PLACE, place, strict=True)) | names | figures | counts)
    return pd.DataFrame(rows, columns=[*PLACE, *METHOD, "iqm", "low", "high", "rank", "datasets", "n"])


def interquartile_mean(runs: list[np.ndarray]) -> tuple[float, float, float]:
    """Mean of the middle half of all runs, and the bounds of its stratified 95% bootstrap interval.

    Args:
        runs: One array of values per dataset.

    Returns:
        The mean and its bounds, in the unit of the values; NaN bounds where a dataset has a single run.
    """

    def middle(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis))

    mean = float(middle(*runs))
    if min(map(len, runs)) < 2:
        return mean, float("nan"), float("nan")
    if all(np.ptp(sample) == 0 for sample in runs):
        return mean, mean, mean
    resampled = stats.bootstrap(
        tuple(runs),
        middle,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return mean, float(resampled.low), float(resampled.high)


def average_ranks(values: pd.DataFrame) -> pd.Series:
    """Average rank of every method over datasets, by its mean over seeds; 1 is the highest, ties share their ranks.

    Args:
        values: Columns method, dataset, value; every method has every dataset.
    """
    means = values.pivot_table(index="dataset", columns="method", values="value", aggfunc="mean")
    return means.rank(axis=1, ascending=False).mean()


def critical_difference(methods: int, datasets: int, alpha: float = 0.05) -> float:
    """How far two average ranks must lie apart: Nemenyi's test after Demsar 2006 (JMLR 7), section 3.2.

    q * sqrt(k (k + 1) / (6 N)) for k methods and N datasets, with q the studentised range of k groups and infinite
    degrees of freedom over sqrt(2).
    """
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * datasets)))


def _complete(part: pd.DataFrame) -> pd.DataFrame:
    """The rows of the methods that have every dataset."""
    has = part.groupby("method")["dataset"].nunique()
    return part[part["method"].isin(has.index[has == part["dataset"].nunique()])]
