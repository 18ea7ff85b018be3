"""Methods compared seed by seed: with their base, with other modifiers of that base, and over several datasets."""

from collections.abc import Iterable, Iterator, Sequence
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from dmlbench.analysis.estimates import ESTIMATE, MARKED
from dmlbench.analysis.groups import (
    BASE,
    DEFAULT,
    GROUP,
    METHOD,
    MODIFIER,
    OTHER,
    Against,
    joined_marks,
    modifier_rank,
    paired,
)
from dmlbench.analysis.statistics import (
    EFFECT,
    FEWEST,
    Estimate,
    benjamini_hochberg,
    evidence,
    probability_of_improvement,
    simultaneous_interval,
    t_interval,
    verdict,
    without_rounding,
)
from dmlbench.results.frames import ENSEMBLE, MEAN, UNTRAINED

MOST_UNITS = 10**8  # above, rounding of a fraction comes near the tolerance of a count
WITHIN = [*GROUP, "selection", "metric"]
COMPARED = [*MARKED, *OTHER, "primary"]
TESTS = [
    "p_t", "p_bh", "family", "p_equivalent", "p_equivalent_bh", "p_sign_flip", "p_smallest", "effect_size",
    "probability_of_improvement", "improvement_low", "improvement_high", "all_low", "all_high", "verdict",
]  # fmt: skip


def seed_pairs(values: pd.DataFrame, against: Against = DEFAULT) -> pd.DataFrame:
    """Values of a method beside those of another (`value_to`), of one seed, selection and metric.

    The other is the method's reference (`groups.references`), which makes the pair `primary`; without
    `against.method` also an earlier modifier of `groups.MODIFIERS` on the same base with as many networks at test time.
    Two that did not start from the same weights, with the same images, on the same kind of device, are no pair: see
    `other_origins`.

    Args:
        values: As `estimates.seed_values` returns them.
        against: What the reference is.

    Returns:
        Columns `WITHIN`, `COMPARED`, seed, value, value_to, units (how many 1 has in both).
    """
    pairs = _candidates(values, against)
    pairs = pairs[pairs["origin"] == pairs["origin_to"]]
    units = [_common([own, other]) for own, other in zip(pairs["units"], pairs["units_to"], strict=True)]
    names = [*WITHIN, *COMPARED, "seed", "value", "value_to", "units"]
    return pairs.assign(units=units)[names].reset_index(drop=True)


def other_origins(values: pd.DataFrame, against: Against = DEFAULT) -> pd.DataFrame:
    """How many seeds (`size`) of each `METHOD` form no pair with its reference, whose run had another origin."""
    pairs = _with_references(values, against)
    return _seeds(pairs[pairs["origin"] != pairs["origin_to"]])


def other_kinds(values: pd.DataFrame, against: Against = DEFAULT) -> pd.DataFrame:
    """How many pairs (`size`) of each `METHOD` with its reference are of two kinds of processor or of libraries."""
    pairs = _with_references(values, against)
    return _seeds(pairs[(pairs["origin"] == pairs["origin_to"]) & (pairs["kind"] != pairs["kind_to"])])


def comparisons(pairs: pd.DataFrame, values: pd.DataFrame, effect: float = EFFECT) -> pd.DataFrame:
    """Every comparison of one protocol, dataset, selection and metric, with its interval, tests and verdict.

    These are exploratory: nobody declared them before the runs (for those see `claims`). So p-values control the share
    of false discoveries among the `family` of all comparisons of the group, selection and metric that can be tested.

    Args:
        pairs: As `seed_pairs` returns them, or part of it.
        values: As `estimates.seed_values` returns them: the probability of improvement is of all runs, unpaired.
        effect: The smallest effect of interest, a fraction.

    Returns:
        Columns `WITHIN`, `COMPARED`, `ESTIMATE` of the differences, `TESTS`. `p_bh` and `p_equivalent_bh` correct `p_t`
        and `p_equivalent` by Benjamini and Hochberg's method; `all_low` and `all_high` bound the simultaneous interval
        of the family; `verdict` is as `statistics.verdict` gives it by the corrected values.
    """
    keys, runs = [*WITHIN, *COMPARED], _runs(values)
    found, units = _differences(pairs), pairs["units"].to_numpy(float)
    rows = []
    for key, part in _each(pairs, keys):
        row = key | _tested(found[part], _common(units[part]), effect)
        rows.append(row | _improvement(runs, row, [str(row["dataset"])]))
    return _together(pd.DataFrame(rows, columns=[*keys, *ESTIMATE, *TESTS]), WITHIN)


def pooled(pairs: pd.DataFrame, values: pd.DataFrame, effect: float = EFFECT) -> pd.DataFrame:
    """Comparisons pooled over the datasets of one protocol, every dataset with the same weight.

    Each seed's differences are averaged over the datasets first, so that n counts seeds that all datasets have. The
    interval covers the choice of the seed for these very datasets, not the choice of datasets.

    Args:
        pairs: As `seed_pairs` returns them, or part of it.
        values: As `estimates.seed_values` returns them.
        effect: The smallest effect of interest, a fraction.

    Returns:
        As `comparisons`, with `datasets`, their number, in place of `dataset`; only where there are two at least. n is
        0 where the datasets share no seed. The probability of improvement is its mean over datasets (Agarwal et al.
        2021), without an interval.
    """
    keys, runs = [*SCOPE, *COMPARED], _runs(values)
    # A method may be untuned on one dataset and published on another.
    marks = pairs.groupby([*SCOPE, *METHOD])["marks"].transform(joined_marks)
    found, units = _differences(pairs), pairs["units"].to_numpy(float)
    places, names = pd.factorize(pairs["dataset"])
    seeds = pairs["seed"].to_numpy()
    rows = []
    for key, part in _each(pairs.assign(marks=marks), keys):
        own = pd.unique(places[part])
        if len(own) < 2:
            continue
        means = _means_of_seeds(found[part], seeds[part], places[part])
        row = key | _tested(means, _common(units[part]) * len(own), effect) | {"datasets": len(own)}
        rows.append(row | _improvement(runs, row, [str(name) for name in names.take(own)]))
    return _together(pd.DataFrame(rows, columns=[*keys, "datasets", *ESTIMATE, *TESTS]), SCOPE)


def primary(compared: pd.DataFrame) -> pd.DataFrame:
    """The rows that compare a method with its reference."""
    return compared[compared["primary"].astype(bool)]


def _trained(values: pd.DataFrame) -> pd.DataFrame:
    # One network of several is shown and not tested: their mean is, and every test more would cost the others power.
    return values[(values["selection"] != UNTRAINED) & values["network"].isin([MEAN, ENSEMBLE])]


OWN = ["origin", "kind", "units", "value"]


def _with_references(values: pd.DataFrame, against: Against) -> pd.DataFrame:
    return paired(_trained(values), ["selection", "metric"], OWN, against)


def _candidates(values: pd.DataFrame, against: Against) -> pd.DataFrame:
    pairs = _with_references(values, against).assign(primary=True)
    if against.method:
        return pairs
    trained, names = _trained(values), dict(zip(METHOD, OTHER, strict=True)) | {name: f"{name}_to" for name in OWN}
    others = trained[[*WITHIN, *METHOD, "seed", *OWN]].rename(columns=names)
    others = others.assign(**{name: others[f"to_{name}"] for name in BASE})
    more = trained.merge(others, on=[*WITHIN, *BASE, "seed"], how="inner")
    # What takes several networks at test time is compared with such, what takes one with such.
    more = more[(more["network"] == more["to_network"]) & (more["to_modifier"] != "")]
    ranks, others_ranks = (_modifier_ranks(more[names]) for names in (MODIFIER, [f"to_{name}" for name in MODIFIER]))
    later = np.array([one > other for one, other in zip(ranks, others_ranks, strict=True)], dtype=bool)
    return pd.concat([pairs, more[later].assign(primary=False)], ignore_index=True)


def _modifier_ranks(rows: pd.DataFrame) -> list[Any]:
    found = list(rows.itertuples(index=False, name=None))
    known = {own: modifier_rank(*own) for own in set(found)}
    return [known[own] for own in found]


def _seeds(pairs: pd.DataFrame) -> pd.DataFrame:
    """Seeds of each method among the pairs: `METHOD` and `size`."""
    own = pairs.drop_duplicates([*GROUP, *METHOD, "seed"])
    return own.groupby(METHOD, sort=False, as_index=False).size()


Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Runs = dict[tuple[object, ...], Floats]
Row = dict[str, object]


def _each(rows: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[Row, Integers]]:
    """The keys of each group with the places of its rows: a table for each of thousands takes longer than its tests."""
    groups = rows.groupby(list(keys), sort=False, dropna=False).ngroup().to_numpy()
    firsts = rows[list(keys)][~pd.Series(groups, rows.index).duplicated()].itertuples(index=False, name=None)
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    for key, part in zip(firsts, parts if len(rows) else [], strict=True):
        yield dict(zip(keys, key, strict=True)), part


def _differences(pairs: pd.DataFrame) -> Floats:
    return (pairs["value"] - pairs["value_to"]).to_numpy(float)


def _means_of_seeds(differences: Floats, seeds: Integers, places: Integers) -> Floats:
    """The mean over datasets of every seed that all of them have, in the order of the seeds."""
    (seeds, row), (_, column) = (np.unique(own, return_inverse=True) for own in (seeds, places))
    table = np.full((len(seeds), int(column.max()) + 1), np.nan)
    table[row, column] = differences
    whole: Floats = table[~np.isnan(table).any(axis=1)].mean(axis=1)
    return whole


def _runs(values: pd.DataFrame) -> Runs:
    """All runs of a method of one group, selection and metric."""
    measured, keys = values["value"].to_numpy(float), [*WITHIN, *METHOD]
    return {tuple(key.values()): measured[part] for key, part in _each(values, keys)}


def _improvement(runs: Runs, row: Row, datasets: Sequence[str]) -> Row:
    """The probability of improvement, its mean over datasets; of a single one with its interval."""
    if not isinstance(pairs := row["n"], int) or pairs < FEWEST:
        return {}
    found = []
    for dataset in datasets:
        within = row["protocol"], row["overrides"], dataset, row["selection"], row["metric"]
        own, other = (runs[*within, *(row[name] for name in names)] for names in (METHOD, OTHER))
        found.append(probability_of_improvement(own, other))
    mean: Row = {"probability_of_improvement": sum(one.mean for one in found) / len(found)}
    return mean | ({"improvement_low": found[0].low, "improvement_high": found[0].high} if len(found) == 1 else {})


def _tested(differences: Floats, units: float, effect: float) -> Row:
    return vars(t_interval(differences)) | vars(evidence(differences, units, effect))


def _common(units: Iterable[float]) -> float:
    """Units that all values count in; NaN where one counts in none, or they are so many that anything is a count."""
    distinct = set(units)
    if not all(value > 0 for value in distinct):  # not with NaN
        return float("nan")
    common = lcm(*map(int, distinct))
    return float(common) if common <= MOST_UNITS else float("nan")


def _together(rows: pd.DataFrame, within: list[str]) -> pd.DataFrame:
    """The same with what depends on all comparisons of a family: corrected p-values, intervals and verdicts."""
    if rows.empty:
        return rows
    families = rows.groupby(within, sort=False)
    corrected = {
        f"{name}_bh": families[name].transform(lambda p: pd.Series(benjamini_hochberg(p.tolist()), index=p.index))
        for name in ("p_t", "p_equivalent")
    }
    rows = rows.assign(p_bh=corrected["p_t_bh"], p_equivalent_bh=corrected["p_equivalent_bh"])
    rows = rows.assign(family=families["p_t"].transform("count"))
    bounds = [
        simultaneous_interval(Estimate(*estimate), family)
        for *estimate, family in rows[[*ESTIMATE, "family"]].itertuples(index=False, name=None)
    ]
    rows[["all_low", "all_high"]] = bounds
    judged = rows[["n", "mean", "p_bh", "p_equivalent_bh"]].itertuples(index=False, name=None)
    return rows.assign(verdict=[verdict(*row) for row in judged])


SCOPE = ["protocol", "overrides", "selection", "metric"]
COLUMNS = ["iqm", "low", "high", "rank", "datasets", "over", "n", "seeds", "friedman_p"]
RESAMPLES = 2000
FEWEST_FOR_QUARTERS = 10  # values: an interquartile mean of fewer is that of a handful
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
        one of them where two others have more; so are single networks of several, whose mean is a method. No
        interquartile mean of fewer than `FEWEST_FOR_QUARTERS` runs.
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
        measured, marks = shared["value"].to_numpy(float), shared["marks"].to_numpy(object)
        places = pd.factorize(shared["dataset"], sort=True)[0]
        for method, own in _each(shared, METHOD):
            rank = ranks[int(shared["key"].iloc[own[0]])]
            runs = [measured[own[places[own] == place]] for place in range(len(names))]
            iqm, low, high = interquartile_mean(runs) if len(own) >= FEWEST_FOR_QUARTERS else (float("nan"),) * 3
            figures = {"iqm": iqm, "low": low, "high": high, "rank": rank, "friedman_p": p}
            counts = {"datasets": len(runs), "over": ", ".join(names), "n": len(own), "seeds": seeds}
            marked = method | {"marks": joined_marks(marks[own])}
            rows.append(dict(zip(SCOPE, scope, strict=True)) | marked | figures | counts)
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
