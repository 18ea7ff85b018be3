"""The leaderboard: every method's accuracy, and the ranks that its comparisons with all others leave open."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from dmlbench.analysis.estimates import ESTIMATE, MARKED, accuracy
from dmlbench.analysis.groups import GROUP, METHOD
from dmlbench.analysis.statistics import EFFECT, EQUAL, FEWEST, ROUNDING, SIGNIFICANT, holm
from dmlbench.results.frames import ENSEMBLE, MEAN, UNTRAINED

METRICS = ("recall_at_1", "map_at_r")
KEYS = [*GROUP, "selection", "metric"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def leaderboard(values: pd.DataFrame, evaluated: pd.DataFrame | None = None) -> pd.DataFrame:
    """Mean accuracy of every method, the best first, with the ranks that it may have.

    All methods of a group, selection and metric are compared with each other, paired by seed; paired t-tests are
    corrected by Holm's method over all pairs, so that the chance of any false difference is at most 5%. A method's rank
    is at best one more than the number of methods that are better, at worst the number of methods that are not worse:
    with 95% the true ranks of all methods lie within (Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference for ranks",
    Review of Economic Studies 91). Methods whose ranks overlap are not distinguished, which is no evidence that they
    are equal.

    Args:
        values: As `estimates.seed_values` returns them.
        evaluated: Rows of `load_results` of what was not trained here. Each is there under every selection of its
            group, `last` where nothing else is; it has no seeds (n is 0), and so neither interval nor rank.

    Returns:
        Columns `GROUP`, selection, metric, `MARKED`, `ESTIMATE`, best_rank and worst_rank for the `METRICS`; ordered by
        the mean within each group, selection and metric.
    """
    trained = values["network"].isin([MEAN, ENSEMBLE]) & values["metric"].isin(METRICS)
    rows = values[trained & (values["selection"] != UNTRAINED)]
    means = accuracy(rows).sort_values("mean", ascending=False, kind="stable")
    within = dict(iter(rows.groupby(KEYS, sort=False)))
    frames = []
    for key, own in means.groupby(KEYS, sort=False):
        best, worst = ranks(_by_seed(own, within[key]))
        frames.append(own.assign(best_rank=best, worst_rank=worst))
    columns = [*KEYS, *MARKED, *ESTIMATE, "best_rank", "worst_rank"]
    board = pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
    return board if evaluated is None or evaluated.empty else _with_evaluated(board, evaluated)[columns]


def _with_evaluated(board: pd.DataFrame, evaluated: pd.DataFrame) -> pd.DataFrame:
    """A leaderboard with the rows of what was not trained here at their place."""
    rows = []
    for row in evaluated.to_dict("records"):
        group = tuple(row[key] for key in GROUP)
        own = [key == group for key in board[GROUP].itertuples(index=False, name=None)]
        for selection in board.loc[own, "selection"].unique() if any(own) else ["last"]:
            for metric in (metric for metric in METRICS if not pd.isna(row.get(metric, np.nan))):
                known = {key: row[key] for key in (*GROUP, *MARKED)}
                nothing = dict.fromkeys(("low", "high", "std"), np.nan) | {
                    "n": 0,
                    "best_rank": None,
                    "worst_rank": None,
                }
                rows.append(known | nothing | {"selection": selection, "metric": metric, "mean": row[metric]})
    added = pd.DataFrame(rows, columns=[*board.columns])
    ranks = {"best_rank": "Int64", "worst_rank": "Int64"}
    whole = pd.concat([own.astype(ranks) for own in (board, added) if len(own)], ignore_index=True)
    place = {key: number for number, key in enumerate(whole[KEYS].drop_duplicates().itertuples(index=False, name=None))}
    first = np.array([place[key] for key in whole[KEYS].itertuples(index=False, name=None)])
    order = np.lexsort((np.arange(len(whole)), -whole["mean"].to_numpy(dtype=float), first))
    return whole.iloc[order].reset_index(drop=True)


def _by_seed(means: pd.DataFrame, values: pd.DataFrame) -> Floats:
    """A row per seed and origin, a column per method in the order of `means`; NaN where a method has no such run."""
    order = [tuple(row) for row in means[METHOD].itertuples(index=False, name=None)]
    table = values.pivot_table(index=["origin", "seed"], columns=METHOD, values="value", sort=False)
    return np.asarray(table[order], dtype=np.float64)


def ranks(table: Floats) -> tuple[Integers, Integers]:
    """The best and the worst rank that each method may have, from 1.

    Args:
        table: (N, M), a row per seed and a column per method; NaN where a method lacks the seed. Fewer than `FEWEST`
            seeds of a pair leave it open.
    """
    count = table.shape[1]
    first, second = np.triu_indices(count, 1)
    pairs = table[:, first] - table[:, second]
    n = np.sum(~np.isnan(pairs), axis=0)
    p, tested = np.full(len(first), np.nan), n >= FEWEST
    sign = np.zeros(len(first))
    if tested.any():
        own = pairs[:, tested]
        mean, std = np.nanmean(own, axis=0), np.nanstd(own, axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(mean) / (std / np.sqrt(n[tested]))
            p[tested] = 2 * special.stdtr(n[tested] - 1, -t)
        # Differences that are equal have no spread to divide by: see `statistics.evidence`.
        rounding = ROUNDING * EFFECT
        equal = np.nanmax(own, axis=0) - np.nanmin(own, axis=0) <= np.maximum(EQUAL * np.abs(mean), rounding)
        p[tested] = np.where(equal, np.where(np.abs(mean) <= rounding, 1.0, 0.5 ** (n[tested] - 1)), p[tested])
        sign[tested] = np.sign(mean)
    sign[~(np.array(holm(p.tolist())) < SIGNIFICANT)] = 0
    better = np.zeros((count, count), dtype=int)
    better[first, second], better[second, first] = sign > 0, sign < 0
    return 1 + better.sum(axis=0), count - better.sum(axis=1)
