"""Methods compared seed by seed: with their own base, and modifiers of one base with each other."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import lcm

import numpy as np
import pandas as pd

from dmlbench.analysis.estimates import ESTIMATE, MARKED
from dmlbench.analysis.groups import BASE, GROUP, METHOD, joined_marks, modifier_rank
from dmlbench.analysis.statistics import FEWEST, evidence, holm, probability_of_improvement, t_interval
from dmlbench.results.frames import ENSEMBLE, MEAN, UNTRAINED

SIGNIFICANT = 0.05
MOST_UNITS = 10**8  # above, rounding of a fraction comes near the tolerance of a count
OTHER = ["to", "to_modifier", "to_settings", "to_network"]  # what is compared with, on the same base
COMPARED = [*MARKED, *OTHER]
TESTS = ["p_t", "p_holm", "family", "p_sign_flip", "p_smallest", "effect_size", "probability_of_improvement"]


def seed_pairs(values: pd.DataFrame) -> pd.DataFrame:
    """Values of a method beside those of another on the same base (`value_to`), of one seed, selection and metric.

    The other (`to`) is the base itself, or an earlier modifier of `groups.MODIFIERS` with as many networks at test
    time. Two that did not start from the same weights, with the same images, on the same kind of device, are no pair:
    see `other_origins`.

    Args:
        values: As `estimates.seed_values` returns them.

    Returns:
        Columns `GROUP`, selection, metric, `COMPARED`, seed, value, value_to, units (how many 1 has in both).
    """
    pairs = _candidates(values)
    pairs = pairs[pairs["origin"] == pairs["origin_to"]]
    units = [_common([own, other]) for own, other in zip(pairs["units"], pairs["units_to"], strict=True)]
    names = [*GROUP, "selection", "metric", *COMPARED, "seed", "value", "value_to", "units"]
    return pairs.assign(units=units)[names].reset_index(drop=True)


def other_origins(values: pd.DataFrame) -> pd.DataFrame:
    """How many seeds (`size`) of each `METHOD` form no pair with its base, for the base's run had another origin."""
    pairs = _candidates(values)
    return _seeds_with_base(pairs[pairs["origin"] != pairs["origin_to"]])


def other_kinds(values: pd.DataFrame) -> pd.DataFrame:
    """How many pairs (`size`) of each `METHOD` with its base are of two kinds of processor or releases of libraries."""
    pairs = _candidates(values)
    return _seeds_with_base(pairs[(pairs["origin"] == pairs["origin_to"]) & (pairs["kind"] != pairs["kind_to"])])


def comparisons(pairs: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """Every comparison of one protocol, dataset, selection and metric, with its interval and tests.

    Args:
        pairs: As `seed_pairs` returns them, or part of it.
        values: As `estimates.seed_values` returns them: the probability of improvement is of all runs, unpaired.

    Returns:
        Columns `GROUP`, selection, metric, `COMPARED`, `ESTIMATE` of the differences, `TESTS`. `p_holm` corrects
        `p_t` for the `family` of all comparisons of the group, selection and metric that can be tested.
    """
    within = [*GROUP, "selection", "metric"]
    keys, runs = [*within, *COMPARED], _runs(values)
    rows = []
    for key, part in pairs.groupby(keys, sort=False):
        row = _row(keys, key, part["value"] - part["value_to"], _common(part["units"]))
        rows.append(row | {"probability_of_improvement": _improvement(runs, row, str(row["dataset"]))})
    return _with_family(pd.DataFrame(rows, columns=[*keys, *ESTIMATE, *TESTS]), within)


def pooled(pairs: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """Comparisons pooled over the datasets of one protocol, every dataset with the same weight.

    Each seed's differences are averaged over the datasets first, so that n counts seeds that all datasets have. The
    interval covers the choice of the seed for these very datasets, not the choice of datasets.

    Args:
        pairs: As `seed_pairs` returns them, or part of it.
        values: As `estimates.seed_values` returns them.

    Returns:
        As `comparisons`, but for `datasets`, their number, in within of `dataset`; only where there are two at least.
        n is 0 where the datasets share no seed. The probability of improvement is its mean over datasets (Agarwal et
        al. 2021).
    """
    within = ["protocol", "overrides", "selection", "metric"]
    keys, runs = [*within, *COMPARED], _runs(values)
    # A method may be untuned on one dataset and published on another.
    marks = pairs.groupby([*within, *METHOD])["marks"].transform(joined_marks)
    rows = []
    for key, part in pairs.assign(marks=marks).groupby(keys, sort=False):
        datasets = list(part["dataset"].unique())
        if len(datasets) < 2:
            continue
        table = (part["value"] - part["value_to"]).groupby([part["seed"], part["dataset"]]).first().unstack()  # noqa: PD010
        units = _common(part["units"]) * len(datasets)
        row = _row(keys, key, table.dropna().mean(axis=1), units) | {"datasets": len(datasets)}
        each = [_improvement(runs, row, dataset) for dataset in datasets]
        rows.append(row | {"probability_of_improvement": sum(each) / len(each)})
    return _with_family(pd.DataFrame(rows, columns=[*keys, "datasets", *ESTIMATE, *TESTS]), within)


def to_base(compared: pd.DataFrame) -> pd.DataFrame:
    """The rows that compare a method with its own base."""
    return compared[compared["to_modifier"] == ""]


def star(p_holm: float) -> str:
    """A star where a corrected p-value is below .05; NaN, of too few seeds, draws none."""
    return "*" if p_holm < SIGNIFICANT else ""


def _candidates(values: pd.DataFrame) -> pd.DataFrame:
    # One network of several is shown and not tested: their mean is, and every test more would cost the others power.
    trained = values[(values["selection"] != UNTRAINED) & values["network"].isin([MEAN, ENSEMBLE])]
    keys = [*GROUP, "selection", "metric", *BASE, "seed"]
    own = ["method", "modifier", "modifier_settings", "network"]
    names = dict(zip(own, OTHER, strict=True)) | {name: f"{name}_to" for name in ("origin", "kind", "units", "value")}
    pairs = trained.merge(trained[[*keys, *names]].rename(columns=names), on=keys, how="inner")
    two = zip(pairs[own[1:]].itertuples(index=False), pairs[OTHER[1:]].itertuples(index=False), strict=True)
    later = np.array([modifier_rank(*one) > modifier_rank(*other) for one, other in two], dtype=bool)
    # What takes several networks at test time is compared with such, what takes one with such; with the base, all.
    alike = (pairs["network"] == pairs["to_network"]) | (pairs["to_modifier"] == "")
    return pairs[later & alike]


def _seeds_with_base(pairs: pd.DataFrame) -> pd.DataFrame:
    """Seeds of each method among the pairs with its base: `METHOD` and `size`."""
    own = pairs[pairs["to_modifier"] == ""].drop_duplicates([*GROUP, *METHOD, "seed"])
    return own.groupby(METHOD, sort=False, as_index=False).size()


Runs = dict[tuple[object, ...], pd.Series]
Row = dict[str, object]


def _runs(values: pd.DataFrame) -> Runs:
    """All runs of a method of one group, selection and metric."""
    return dict(iter(values.groupby([*GROUP, "selection", "metric", *METHOD])["value"]))


def _improvement(runs: Runs, row: Row, dataset: str) -> float:
    if not isinstance(pairs := row["n"], int) or pairs < FEWEST:
        return float("nan")
    within = row["protocol"], row["overrides"], dataset, row["selection"], row["metric"]
    other = row | dict(zip(("method", "modifier", "modifier_settings", "network"), map(row.get, OTHER), strict=True))
    own, its = (runs[*within, *(each[key] for key in METHOD)] for each in (row, other))
    return probability_of_improvement(own, its)


def _row(keys: Sequence[str], key: Iterable[object], differences: pd.Series, units: float) -> Row:
    tested = evidence(differences, units)
    return dict(zip(keys, key, strict=True)) | asdict(t_interval(differences)) | asdict(tested)


def _common(units: Iterable[float]) -> float:
    """Units that all values count in; NaN where one counts in none, or they are so many that anything is a count."""
    distinct = set(units)
    if not all(value > 0 for value in distinct):  # not with NaN
        return float("nan")
    common = lcm(*map(int, distinct))
    return float(common) if common <= MOST_UNITS else float("nan")


def _with_family(rows: pd.DataFrame, within: list[str]) -> pd.DataFrame:
    if rows.empty:
        return rows
    p = rows.groupby(within, sort=False)["p_t"]
    corrected = p.transform(lambda family: pd.Series(holm(family.tolist()), index=family.index))
    return rows.assign(p_holm=corrected, family=p.transform("count"))
