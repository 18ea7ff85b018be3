"""Intervals and tests over seeds. A comparison is paired: seed by seed, never mean against mean.

Intervals of so few seeds are Student's: a percentile bootstrap of six values covers far less than it says.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

FEWEST = 3  # pairs below which no test is made and no conclusion is offered
SIGNIFICANT = 0.05
POWER = 0.8
EFFECT = 0.01  # a fraction: one point, the smallest effect of interest where none is declared
EXACT = 16  # pairs up to which every flip of signs is counted; beyond, as many are drawn
BOOTSTRAPS = 2000
# Values this close, relative to the largest, are equal but for rounding: a metric errs by some 1e-15, and a count of
# queries moves by one in less than a million.
EQUAL = 1e-9
ROUNDING = 1e-10  # of the smallest effect of interest: a difference below is 0 but for rounding
COUNTED = 1e-6  # how far a count of queries, computed from a fraction, may be from a whole number
NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A mean with the bounds of its interval; `n` counts the values, `std` is their standard deviation (n - 1).

    Bounds and standard deviation are NaN where n is below 2.
    """

    mean: float
    low: float
    high: float
    n: int
    std: float = NAN


@dataclass(frozen=True)
class Evidence:
    """What n paired differences say against "no difference": p-values are two-sided, NaN below `FEWEST` pairs.

    Attributes:
        p_t: Of the paired t-test.
        p_equivalent: Of the test that the effect reaches the smallest of interest: low where it is smaller.
        p_sign_flip: Of the exact sign-flip test.
        p_smallest: The smallest that the sign-flip test can reach with so many pairs.
        effect_size: Hedges' g of the differences.
    """

    p_t: float
    p_equivalent: float
    p_sign_flip: float
    p_smallest: float
    effect_size: float


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
    sample = _sample(values)
    n = len(sample)
    mean = float(sample.mean()) if n else NAN
    if n < 2:
        return Estimate(mean, NAN, NAN, n)
    # Not scipy's `t.interval`: with equal values (a weight of 0) its scale is 0 and its bounds are NaN.
    std = float(sample.std(ddof=1))
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * std / np.sqrt(n)
    return Estimate(mean, float(mean - half), float(mean + half), n, std)


def log_ratio_interval(treated: pd.Series, control: pd.Series, confidence: float = 0.95) -> Estimate:
    """Geometric mean of the ratios `treated / control` per seed, with the t-interval of their logarithms.

    On logarithms twice as slow and twice as fast weigh the same, and the interval cannot reach below 0.
    Fleming and Wallace (1986), "How not to lie with statistics", CACM 29(3): ratios call for the geometric mean.

    Args:
        treated: Positive values (times) of a method, indexed by seed.
        control: Positive values of its base, indexed by seed, in the same unit.
        confidence: Coverage, between 0 and 1.

    Returns:
        The ratio, without a unit; `n` counts pairs, `std` is the geometric standard deviation, a factor.

    Raises:
        ValueError: where a value is not positive.
    """
    pairs = _pairs(treated, control)
    if (pairs <= 0).any(axis=None):
        raise ValueError("a ratio of times needs positive times")
    logs = t_interval(np.log(pairs["treated"]) - np.log(pairs["control"]), confidence)
    mean, low, high, std = (float(np.exp(value)) for value in (logs.mean, logs.low, logs.high, logs.std))
    return Estimate(mean, low, high, logs.n, std)


def median_interval(values: Iterable[float], confidence: float = 0.95) -> Estimate:
    """Median and its percentile-bootstrap interval, of the rounds of a measurement.

    Rounds are many, and some are slowed by what else the machine does: the median leaves those alone, and needs no
    normal distribution. Efron (1979), "Bootstrap methods: another look at the jackknife", Annals of Statistics 7.

    Args:
        values: One value per round.
        confidence: Coverage, between 0 and 1.

    Returns:
        An estimate whose `mean` is the median.
    """
    sample = _sample(values)
    n = len(sample)
    if n < 2:
        return Estimate(float(sample[0]) if n else NAN, NAN, NAN, n)
    drawn = np.random.default_rng(0).choice(sample, size=(BOOTSTRAPS, n))
    ends = (1 - confidence) / 2, (1 + confidence) / 2
    low, high = np.quantile(np.median(drawn, axis=1), ends)
    return Estimate(float(np.median(sample)), float(low), float(high), n, float(sample.std(ddof=1)))


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> Estimate:
    """Mean and its percentile-bootstrap interval, which never leaves the range of the values.

    For what cannot be negative, such as a maximum minus one of its values: Student's interval would reach below 0. Of
    few values it covers less than it says. Efron (1979), Annals of Statistics 7.

    Args:
        values: One value per seed; missing values are left out.
        confidence: Coverage, between 0 and 1.
    """
    sample = _sample(values)
    n = len(sample)
    if n < 2:
        return Estimate(float(sample[0]) if n else NAN, NAN, NAN, n)
    drawn = np.random.default_rng(0).choice(sample, size=(BOOTSTRAPS, n)).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(sample.mean()), float(low), float(high), n, float(sample.std(ddof=1)))


def evidence(differences: Iterable[float], units: float = NAN, effect: float = EFFECT) -> Evidence:
    """Paired t-test, equivalence test, exact sign-flip test and effect size of differences per seed.

    The t-test is the primary one. The equivalence test is two one-sided t-tests (Schuirmann 1987, "A comparison of the
    two one-sided tests procedure ...", J. Pharmacokinetics and Biopharmaceutics 15): its p is the larger of those
    against a mean of -`effect` and of +`effect`. The sign-flip test (Fisher 1935, "The Design of Experiments", section
    21) needs no normal distribution, only that "no difference" would make either sign equally likely; of its 2^n flips
    two are as extreme as the data at least, so p never falls below 2^(1 - n): six pairs are the fewest that reach .05.
    The effect size is the mean over the standard deviation of the differences, times Hedges' (1981) correction for
    small n. Differences that are all equal (R@1 of a small test set counts in whole queries) have no spread to divide
    by: there the sign-flip test's p is given for the t-test's, and there is no effect size.

    Flips as extreme as the data count, so their sums are compared exactly: as whole numbers where differences count in
    `units`, else with those equal that differ by less than rounding does (`EQUAL`, relative to the sum of magnitudes).

    Args:
        differences: One value per seed; missing values are left out.
        units: How many units 1 has: the queries of a test set for recall at k; NaN where the metric is no count.
        effect: The smallest effect of interest, in the unit of the differences.
    """
    sample = _sample(differences)
    rounding = ROUNDING * effect
    sample = np.where(np.abs(sample) <= rounding, 0.0, sample)
    n = len(sample)
    smallest = smallest_p(n)
    if n < FEWEST:
        return Evidence(NAN, NAN, NAN, smallest, NAN)
    mean = float(sample.mean())
    if np.ptp(sample) <= max(EQUAL * np.abs(sample).max(), rounding):
        p = _sign_flip(np.full(n, mean), units)
        return Evidence(p, smallest if abs(mean) < effect else 1.0, p, smallest, NAN)
    std = float(sample.std(ddof=1))
    error = std / np.sqrt(n)
    p_t = 2 * float(special.stdtr(n - 1, -abs(mean) / error))
    p_equivalent = float(special.stdtr(n - 1, (abs(mean) - effect) / error))
    hedges = 1 - 3 / (4 * (n - 1) - 1)
    return Evidence(p_t, p_equivalent, _sign_flip(sample, units), smallest, mean / std * hedges)


def verdict(n: int, mean: float, p: float, p_equivalent: float) -> str:
    """`equivalent`, `better`, `worse` or `inconclusive`; "" below `FEWEST` pairs.

    A difference that is surely smaller than the smallest effect of interest is `equivalent`, also where it is surely
    not 0.

    Args:
        n: Pairs.
        mean: Of the differences.
        p: Of the test against "no difference", corrected for what else is tested.
        p_equivalent: Of the equivalence test, likewise.
    """
    if n < FEWEST:
        return ""
    if p_equivalent < SIGNIFICANT:
        return "equivalent"
    if p < SIGNIFICANT:
        return "better" if mean > 0 else "worse"
    return "inconclusive"


def detectable(std: float, n: int, level: float = SIGNIFICANT, power: float = POWER) -> float:
    """The effect that a paired t-test of n pairs finds with the given power; in the unit of `std`.

    From the noncentral t distribution (Cohen 1988, "Statistical Power Analysis", chapter 2).

    Args:
        std: Standard deviation of the paired differences.
        n: Pairs; below two nothing can be found, and the result is NaN.
        level: Of the two-sided test.
        power: Probability that the effect is found.
    """
    return float(std * _noncentrality(n, level, power) / np.sqrt(n)) if n > 1 else NAN


def seeds_needed(std: float, effect: float, level: float = SIGNIFICANT, power: float = POWER) -> int:
    """The fewest pairs with which a paired t-test finds an effect: see `detectable`."""
    low, high = FEWEST - 1, FEWEST
    while detectable(std, high, level, power) > effect:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if detectable(std, middle, level, power) > effect else (low, middle)
    return high


@cache
def _noncentrality(n: int, level: float, power: float) -> float:
    critical = float(special.stdtrit(n - 1, 1 - level / 2))

    def missing(noncentrality: float) -> float:
        return power - float(stats.nct.sf(critical, n - 1, noncentrality))

    high = 1.0
    while missing(high) > 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high))


def smallest_p(n: int) -> float:
    """The smallest two-sided p that our sign-flip test of n pairs can reach: 2^(1 - n), NaN without pairs.

    Beyond `EXACT` pairs flips are drawn, as many as `EXACT` pairs have.
    """
    return 2.0 ** (1 - min(n, EXACT)) if n else NAN


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their family; missing ones stay missing and do not count.

    Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6: the
    i-th smallest of m is multiplied by m - i + 1, and none may fall below a smaller one.
    """
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(len(p), NAN)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0) if len(order) else NAN
    return [float(value) for value in corrected]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p-values that control the share of false discoveries; missing ones stay missing and do not count.

    Benjamini and Hochberg (1995), "Controlling the false discovery rate", JRSS B 57: the i-th smallest of m is
    multiplied by m / i, and none may exceed a larger one.
    """
    p = np.asarray(p_values, dtype=float)
    corrected, known = np.full(len(p), NAN), ~np.isnan(p)
    if known.any():
        corrected[known] = stats.false_discovery_control(p[known])
    return [float(value) for value in corrected]


def simultaneous_interval(estimate: Estimate, family: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of Student's interval with Bonferroni's correction: `family` of them cover all their means together.

    Differences of seeds are correlated little enough that coverage stays within a point of the nominal one, as
    simulated in the tests.
    """
    if estimate.n < 2:
        return NAN, NAN
    reach = float(special.stdtrit(estimate.n - 1, 1 - (1 - confidence) / (2 * max(family, 1))))
    half = reach * estimate.std / np.sqrt(estimate.n)
    return float(estimate.mean - half), float(estimate.mean + half)


def probability_of_improvement(
    treated: Iterable[float], control: Iterable[float], confidence: float = 0.95
) -> Estimate:
    """Chance that a run of one method beats a run of another, the two drawn independently: no pairing by seed.

    The share of all pairs of runs in which the first is larger, ties counting half (what is equal but for rounding is
    tied): Mann and Whitney's U over the number of pairs. Agarwal et al. 2021 (arXiv 2108.13264; the library rliable),
    for one task. The interval is Newcombe's (2006, "Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic", Statistics in Medicine 25), method 5: within 0 and 1, and not of length 0 where all runs
    of one method beat all of the other.

    Args:
        treated: A value per run; missing values are left out.
        control: Likewise, in the same unit.
        confidence: Coverage, between 0 and 1.

    Returns:
        A probability with its interval, `n` the runs of the method with fewer; NaN where one of the two has no run.
    """
    x, y = _sample(treated), _sample(control)
    if not len(x) or not len(y):
        return Estimate(NAN, NAN, NAN, 0)
    tied = without_rounding(np.concatenate([x, y]))
    share = float((np.sign(tied[: len(x), None] - tied[None, len(x) :]) + 1).mean() / 2)
    return Estimate(share, *_newcombe(share, len(x), len(y), confidence), min(len(x), len(y)))


@cache
def _newcombe(share: float, treated: int, control: int, confidence: float) -> tuple[float, float]:
    """Bounds of Newcombe's interval; a study has few shares, because most methods have as many runs."""
    z, more = float(special.ndtri((1 + confidence) / 2)), (treated + control) / 2 - 1

    def beyond(chance: float) -> float:
        one = 1 + more * ((1 - chance) / (2 - chance) + chance / (1 + chance))
        return abs(chance - share) - z * float(np.sqrt(chance * (1 - chance) * one / (treated * control)))

    inside = min(max(share, EQUAL), 1 - EQUAL)  # at 0 and 1 the spread is 0, too
    low = float(optimize.brentq(beyond, 0.0, inside)) if share > 0 else 0.0
    high = float(optimize.brentq(beyond, inside, 1.0)) if share < 1 else 1.0
    return low, high


def welch_difference(ours: Estimate, mean: float, std: float, n: int, confidence: float = 0.95) -> Estimate:
    """Difference of our mean to one that others published, with Welch's interval: no seed is shared, so no pairs.

    Welch (1947), "The generalization of Student's problem ...", Biometrika 34. With NaN for `std` theirs counts as
    exact, and the interval is that of our mean alone.

    Args:
        ours: Our estimate with its standard deviation.
        mean: The published mean, in the same unit.
        std: The published sample standard deviation (n - 1), or NaN.
        n: The published number of runs.
        confidence: Coverage, between 0 and 1.
    """
    difference = ours.mean - mean
    if ours.n < 2:
        return Estimate(difference, NAN, NAN, ours.n)
    own, other = ours.std**2 / ours.n, std**2 / n if n > 1 and not np.isnan(std) else 0.0
    freedom = ours.n - 1.0
    if other:
        freedom = (own + other) ** 2 / (own**2 / (ours.n - 1) + other**2 / (n - 1))
    half = float(special.stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(own + other))
    return Estimate(difference, difference - half, difference + half, ours.n)


def without_rounding(values: np.ndarray) -> np.ndarray:
    """The values, with those that are equal but for rounding (`EQUAL`) made equal, so that they are tied in ranks."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.diff(ordered, prepend=-np.inf) > EQUAL * np.abs(values).max(initial=0.0)
    tied = np.empty_like(values)
    tied[order] = ordered[begins][np.cumsum(begins) - 1]
    return tied


def _sign_flip(sample: np.ndarray, units: float) -> float:
    """Two-sided p: twice the share of flips whose sum is at least that of the data, the data among them."""
    counts = np.rint(sample * units)
    if np.all(np.abs(sample * units - counts) < COUNTED):  # not with NaN for units
        sample, rounding = counts, 0.0
    else:
        rounding = EQUAL * np.abs(sample).sum()
    extreme = abs(sample.sum()) - rounding
    if len(sample) > EXACT:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(2**EXACT - 1, len(sample)))
        found = (np.count_nonzero(signs @ sample >= extreme) + 1) / 2**EXACT
    else:
        sums = np.zeros(1)
        for value in sample:
            sums = np.concatenate([sums - value, sums + value])
        found = np.count_nonzero(sums >= extreme) / len(sums)
    return float(min(1.0, 2 * found))


def _sample(values: Iterable[float]) -> np.ndarray:
    sample = np.asarray(list(values), dtype=float)
    known: np.ndarray = sample[~np.isnan(sample)]
    return known


def _pairs(treated: pd.Series, control: pd.Series) -> pd.DataFrame:
    """The values of the seeds that both have, as floats: control left, treated right."""
    return pd.concat({"control": control, "treated": treated}, axis=1, join="inner").astype(float).dropna()
