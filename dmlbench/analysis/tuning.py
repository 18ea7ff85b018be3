"""Tuned values beside those of a method's files, seed by seed."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dmlbench.analysis.estimates import ESTIMATE
from dmlbench.analysis.groups import GROUP, METHOD, in_order
from dmlbench.analysis.statistics import t_interval
from dmlbench.specs.registry import SEARCHED_MARK

NOT_RECORDED = "not recorded"
PLACE = ("protocol", "dataset", "method")
Margins = Mapping[tuple[str, ...], str]  # by the names of `PLACE`
NONE: Margins = {}
Floats = npt.NDArray[np.float64]


def tuned_beside_files(values: pd.DataFrame, margins: Margins = NONE) -> pd.DataFrame:
    """What tuning changed: tuned minus the files' values, of one seed, selection and metric.

    Two that did not start from the same weights, with the same images, on the same kind of device, are no pair.

    Args:
        values: As `estimates.seed_values` returns them.
        margins: By how much the values were chosen, in words.

    Returns:
        One row per group, selection, metric and tuned method (`METHOD` and marks): `mean_of_files` and `mean_of_tuned`
        values over the seeds that both have, `ESTIMATE` of the differences (n is 0 where there is no run with the
        files' values), the `budget` of the search, the `margin` by which it chose. No test: a verdict is of
        methods, not of their settings.
    """
    keys = [*GROUP, "selection", "metric", "seed", "origin", *(key for key in METHOD if key != "tuned")]
    is_tuned = values["tuned"].astype(bool)
    files = values.loc[~is_tuned, [*keys, "value"]].rename(columns={"value": "files"})
    pairs = values[is_tuned].merge(files, on=keys, how="left", validate="one_to_one")
    names = [*GROUP, "selection", "metric", *METHOD, "marks"]
    rows = [
        dict(zip(names, key, strict=True))
        | {
            "budget": budget_of(str(key[-1])),
            "margin": margins.get(tuple(str(key[names.index(name)]) for name in PLACE), NOT_RECORDED),
            "mean_of_files": own.mean(),
            "mean_of_tuned": tuned.mean(),
        }
        | asdict(t_interval(tuned - own))
        for key, tuned, own in _shared(pairs, names)
    ]
    found = pd.DataFrame(rows, columns=[*names, "budget", "margin", "mean_of_files", "mean_of_tuned", *ESTIMATE])
    return in_order(found) if len(found) else found


def budget_of(marks: str) -> str:
    """The budget of a row's search, as `320 epochs`; empty where its marks name none."""
    searched = SEARCHED_MARK.search(marks)
    return searched[1] if searched else ""


def unequal_budgets(values: pd.DataFrame) -> list[pd.DataFrame]:
    """The bases whose tuned methods had different `budget`s, with these methods; `values` as above."""
    tuned = values[values["tuned"].astype(bool)].drop_duplicates(METHOD)
    tuned = tuned.assign(budget=tuned["marks"].map(budget_of))
    return [part for _, part in tuned.groupby("base", sort=False) if len(set(part["budget"])) > 1]


def _shared(pairs: pd.DataFrame, names: list[str]) -> Iterator[tuple[tuple[Any, ...], Floats, Floats]]:
    """Each method's values, tuned and of the files, at the seeds with a partner; at all, where none has one."""
    own = pairs["files"].to_numpy(float)
    for key, tuned in pairs.reset_index(drop=True).groupby(names, sort=False)["value"]:
        partners = own[tuned.index]
        kept = ~np.isnan(partners) if not np.isnan(partners).all() else np.ones(len(partners), dtype=bool)
        yield key, tuned.to_numpy(float)[kept], partners[kept]
