"""Methods over several datasets of one protocol: interquartile mean, average rank, critical difference."""

import numpy as np
import pandas as pd
from scipy import stats

from dmlbench.analysis.estimates import MARKED
from dmlbench.analysis.groups import METHOD, joined_marks
from dmlbench.analysis.statistics import FEWEST, without_rounding
from dmlbench.results.frames import ENSEMBLE, MEAN, UNTRAINED

SCOPE = ["protocol", "overrides", "selection", "metric"]
COLUMNS = ["iqm", "low", "high", "rank", "datasets", "over", "n", "seeds", "friedman_p"]
RESAMPLES = 2000
DATASETS_FOR_RANKS = (
    6  # below, not even a method that is better on every dataset differs significantly (2^(1 - 5) > .05)
)


def over_datasets(values: pd.DataFrame) -> pd.DataFrame:
    """Every method's interquartile mean and average rank over the datasets of a protocol, from the seeds they all have.

    The interquartile mean leaves out the lowest and highest quarter of all runs of all datasets; its 95% interval is
    a percentile bootstrap that resamples runs within each dataset (stratified). Agarwal et al. 2021, "Deep RL at the
    Edge of the Statistical Precipice" (arXiv 2108.13264). With few seeds it covers less than 95%.

    Methods are compared on the same runs only: on the datasets that they share, and of each on the seeds that all of
    them have; else a method that lacks seeds of an easy dataset would seem worse.

    Args:
        values: As `estimates.seed_values` returns them.

    Returns:
        Columns `SCOPE`, `MARKED`, iqm, low, high, rank, datasets, over (their names), n (runs), seeds (of the dataset
        with the fewest), friedman_p. One row per method of a protocol, selection and metric for which two methods
        share two datasets. Methods that do not share them are left out, and those with fewer than `FEWEST` seeds on
        one of them where two others have more; so are single networks of several, whose mean is a method.
    """
    rows = []
    trained = values[(values["selection"] != UNTRAINED) & values["network"].isin([MEAN, ENSEMBLE])]
    trained = trained.assign(key=trained.groupby(METHOD, sort=False).ngroup())
    for scope, part in trained.groupby(SCOPE, sort=False):
        shared = _shared(part)
        if shared["dataset"].nunique() < 2 or shared["key"].nunique() < 2:
            continue
        ranks, p = average_ranks(shared), friedman_p(shared)
        names = sorted(shared["dataset"].unique())
        seeds = int(shared.groupby("dataset")["seed"].nunique().min())
        for key, own in shared.groupby("key", sort=False):
            names_of_method = {name: own[name].iloc[0] for name in METHOD} | {"marks": joined_marks(own["marks"])}
            runs = [dataset["value"].to_numpy(float) for _, dataset in own.groupby("dataset")]
            iqm, low, high = interquartile_mean(runs)
            figures = {"iqm": iqm, "low": low, "high": high, "rank": ranks[key], "friedman_p": p}
            counts = {"datasets": len(runs), "over": ", ".join(names), "n": len(own), "seeds": seeds}
            rows.append(dict(zip(SCOPE, scope, strict=True)) | names_of_method | figures | counts)
    return pd.DataFrame(rows, columns=[*SCOPE, *MARKED, *COLUMNS])


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

    Means that are equal but for rounding are tied.

    Args:
        values: Columns key (of the method), dataset, value; every method has every dataset.
    """
    means = _means(values)
    return means.rank(axis=1, ascending=False).mean()


def critical_difference(methods: int, datasets: int, alpha: float = 0.05) -> float:
    """By how much two average ranks must differ: Nemenyi's test after Demsar 2006 (JMLR 7), section 3.2.

    q * sqrt(k (k + 1) / (6 N)) for k methods and N datasets, with q the studentised range of k groups and infinite
    degrees of freedom over sqrt(2).
    """
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * datasets)))


def friedman_p(values: pd.DataFrame) -> float:
    """P of Friedman's test that all methods rank alike, which comes before Nemenyi's (Demsar 2006); NaN for two.

    Args:
        values: Columns key (of the method), dataset, value; every method has every dataset.
    """
    means = _means(values)
    if means.shape[1] < 3:
        return float("nan")
    if (means.max(axis=1) == means.min(axis=1)).all():  # all ranks equal: nothing speaks against it
        return 1.0
    return float(stats.friedmanchisquare(*(means[method] for method in means)).pvalue)


def _means(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every dataset (rows) and method (columns); those equal but for rounding are equal."""
    means = values.pivot_table(index="dataset", columns="key", values="value", aggfunc="mean")
    return pd.DataFrame([without_rounding(row) for row in means.to_numpy()], means.index, means.columns)


def _shared(part: pd.DataFrame) -> pd.DataFrame:
    """The runs that methods share: datasets with the fewest methods give way until two methods have all the others."""
    while True:
        methods = part.groupby("dataset")["key"].nunique().sort_index()
        complete = part.groupby("key")["dataset"].nunique()
        kept = complete.index[complete == len(methods)]
        if len(kept) > 1 or len(methods) < 3:
            break
        part = part[part["dataset"] != methods.sort_values(kind="stable").index[0]]
    part = part[part["key"].isin(kept)]
    # A single method with few seeds would take them from all others.
    seeds = part.groupby(["key", "dataset"])["seed"].nunique().groupby("key").min()
    many = seeds.index[seeds >= FEWEST]
    kept = many if len(many) > 1 else kept
    part = part[part["key"].isin(kept)]
    everyone = part.groupby(["dataset", "seed"])["key"].transform("nunique") == len(kept)
    return part[everyone]
