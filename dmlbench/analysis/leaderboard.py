"""The leaderboard: every method's accuracy, and a letter for each group of methods that no comparison distinguishes."""

import itertools
import string
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from dmlbench.analysis.estimates import ESTIMATE, MARKED, accuracy
from dmlbench.analysis.groups import GROUP, METHOD
from dmlbench.analysis.statistics import FEWEST, SIGNIFICANT, holm
from dmlbench.results.frames import ENSEMBLE, MEAN, UNTRAINED

METRICS = ("recall_at_1", "map_at_r")
KEYS = [*GROUP, "selection", "metric"]
Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


def leaderboard(values: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy of every method, the best first, with the groups of methods that all comparisons leave together.

    All methods of a group, selection and metric are compared with each other, paired by seed; paired t-tests are
    corrected by Holm's method over all pairs, so that the chance of any false difference is at most 5%. Methods that
    share a letter are not distinguished (the compact display of Piepho 2004, "An algorithm for a letter-based
    representation of all-pairwise comparisons", JCGS 13). That two share one is no evidence that they are equal.

    Args:
        values: As `estimates.seed_values` returns them.

    Returns:
        Columns `GROUP`, selection, metric, `MARKED`, `ESTIMATE`, letters ("" with fewer than `FEWEST` seeds), for the
        `METRICS`; ordered by the mean within each group, selection and metric.
    """
    trained = values["network"].isin([MEAN, ENSEMBLE]) & values["metric"].isin(METRICS)
    rows = values[trained & (values["selection"] != UNTRAINED)]
    means = accuracy(rows).sort_values("mean", ascending=False, kind="stable")
    within = dict(iter(rows.groupby(KEYS, sort=False)))
    frames = [own.assign(letters=_letters_of(own, within[key])) for key, own in means.groupby(KEYS, sort=False)]
    columns = [*KEYS, *MARKED, *ESTIMATE, "letters"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _letters_of(means: pd.DataFrame, values: pd.DataFrame) -> list[str]:
    """The letters of the methods of `means`, in its order; `values` are their runs."""
    order = [tuple(row) for row in means[METHOD].itertuples(index=False, name=None)]
    by_seed = values.pivot_table(index=["origin", "seed"], columns=METHOD, values="value", sort=False)
    # A row per seed and origin: NaN where a method has no run of that origin, so two of other origins form no pair.
    groups = groups_of(different(by_seed[order].to_numpy(float)))
    signs = list(zip(letters(), groups, strict=False))
    found = ["".join(sign for sign, group in signs if row in group) for row in range(len(order))]
    return [own if n >= FEWEST else "" for own, n in zip(found, means["n"], strict=True)]


def different(table: Floats) -> Booleans:
    """(M, M): which methods differ, by paired t-tests with Holm's correction over all pairs.

    Args:
        table: (N, M), a row per seed and a column per method; NaN where a method lacks the seed.
    """
    count = table.shape[1]
    first, second = np.triu_indices(count, 1)
    pairs = table[:, first] - table[:, second]
    n = np.sum(~np.isnan(pairs), axis=0)
    p = np.full(len(first), np.nan)
    tested = n >= FEWEST
    if tested.any():
        own = pairs[:, tested]
        mean, std = np.nanmean(own, axis=0), np.nanstd(own, axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # equal differences have no spread
            t = np.abs(mean) / (std / np.sqrt(n[tested]))
        p[tested] = np.where(mean == 0, 1.0, 2 * special.stdtr(n[tested] - 1, -t))
    found = np.zeros((count, count), dtype=bool)
    found[first, second] = np.array(holm(p.tolist())) < SIGNIFICANT
    return found | found.T


def groups_of(differ: Booleans) -> list[list[int]]:
    """The largest groups of methods without a difference between any two, in the order of their first members.

    Args:
        differ: (M, M), symmetric: which methods differ.
    """
    groups = [frozenset(range(len(differ)))]
    for one, other in zip(*np.nonzero(np.triu(differ)), strict=True):
        both = [group for group in groups if {one, other} <= group]
        rest = [group for group in groups if group not in both]
        halves = {frozenset(group - {left}) for group in both for left in (int(one), int(other))}
        kept = [
            half for half in halves if not any(half <= own for own in rest) and not any(half < own for own in halves)
        ]
        groups = rest + kept
    return sorted(sorted(group) for group in groups)


def letters() -> Iterator[str]:
    """a, b, ..., z, aa, ab, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))
