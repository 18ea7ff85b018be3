"""The numbers of a results folder as tidy tables: one row per method and metric, fractions in full precision."""

from dataclasses import asdict

import pandas as pd

from dmlbench.analysis.groups import GROUP, METHOD, done, joined_marks
from dmlbench.analysis.statistics import mean_interval, t_interval
from dmlbench.results.frames import MEAN, UNTRAINED
from dmlbench.results.records import COLUMNS, INDEX
from dmlbench.specs.overrides import Settings

# Every title says how the epoch was chosen: the three are shown separately and never mixed.
SELECTIONS = {
    "last": "last epoch",
    "validation": "epoch chosen by MAP@R on held-out training classes",
    "best_test": "best test epoch (as published: chosen on the test classes)",
}
MARKED = [*METHOD, "marks"]
ESTIMATE = ["mean", "low", "high", "n", "std"]
NOT_METRICS = {*INDEX, *COLUMNS}


def seed_values(results: pd.DataFrame) -> pd.DataFrame:
    """Every measured value: one row per group, selection, method, metric and seed.

    Args:
        results: As `load_results` returns them.

    Returns:
        Columns `GROUP`, selection, `MARKED`, seed, origin, kind, units, metric, value. `units` is how many
        units 1 has where the metric is a count: for recall at k the queries, times the networks that are averaged over.
    """
    metrics = [column for column in results.columns if column not in NOT_METRICS]
    names = [*GROUP, "selection", *MARKED, "seed", "origin", "kind", "units"]
    if not metrics:
        return pd.DataFrame(columns=[*names, "metric", "value"])
    rows = done(results)
    # A method has the marks of all of its cells: releases differ in what they mark, and one hash is one method.
    rows = rows.assign(marks=rows.groupby([*GROUP, *METHOD])["marks"].transform(joined_marks))
    long = rows.assign(units=_units(rows)).melt(names, metrics, var_name="metric").dropna(subset=["value"])
    long = long.astype({"value": float}).reset_index(drop=True)
    return long.assign(units=long["units"].where(long["metric"].str.startswith("recall_at_")))


def _units(rows: pd.DataFrame) -> pd.Series:
    """Queries of a cell's test set, times the networks whose recall is averaged; NaN where they were not stated."""
    if "queries" not in rows:
        return pd.Series(float("nan"), index=rows.index)
    # The best test epoch differs by metric, and states the number of queries for none.
    queries = rows.groupby("folder")["queries"].transform("max").astype(float)
    return queries * rows["networks"].where(rows["network"] == MEAN, 1).astype(float)


def accuracy(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with its 95% t-interval, per group, selection, method and metric.

    Args:
        values: As `seed_values` returns them.

    Returns:
        Columns `GROUP`, selection, `MARKED`, metric, `ESTIMATE`. The untrained network is one row per group and
        metric under the selection `untrained` and the method `untrained`: the same seed gives every method the same
        initial network, so it counts once per seed.
    """
    untrained = values["selection"] == UNTRAINED
    keys = [*GROUP, "selection", "metric"]
    network = values[untrained].groupby([*keys, "seed"], sort=False, as_index=False)["value"].mean()
    none = {"base_settings": Settings(), "modifier_settings": Settings(), "network": MEAN, "tuned": False}
    network = network.assign(method=UNTRAINED, base="", modifier="", marks="", **none)
    rows = pd.concat([network, values[~untrained]], ignore_index=True) if untrained.any() else values
    keys = [*GROUP, "selection", *MARKED, "metric"]
    found = [
        dict(zip(keys, key, strict=True)) | asdict(t_interval(part))
        for key, part in rows.groupby(keys, sort=False)["value"]
    ]
    return pd.DataFrame(found, columns=[*keys, *ESTIMATE])


def optimism(values: pd.DataFrame) -> pd.DataFrame:
    """What choosing the epoch on the test classes adds: best test epoch minus last, per seed and method.

    Args:
        values: As `seed_values` returns them.

    Returns:
        Columns `GROUP`, `MARKED`, metric, `ESTIMATE`, in the unit of the values; never negative, and no measure of a
        method: it is how much a published figure gains by the choice alone. Its interval is the bootstrap's, which
        stays within the values (`statistics.mean_interval`).
    """
    keys = [*GROUP, *MARKED, "metric"]
    chosen = values[values["selection"].isin(["last", "best_test"])]
    wide = chosen.set_index([*keys, "seed", "selection"])["value"].unstack("selection")  # noqa: PD010 - one value each
    wide = wide.reindex(columns=["last", "best_test"]).dropna()
    gained = (wide["best_test"] - wide["last"]).rename("value").reset_index()
    found = [
        dict(zip(keys, key, strict=True)) | asdict(mean_interval(part))
        for key, part in gained.groupby(keys, sort=False)["value"]
    ]
    return pd.DataFrame(found, columns=[*keys, *ESTIMATE])


def selections_of(frame: pd.DataFrame) -> list[str]:
    """The selections a table holds, in the order of `SELECTIONS`."""
    present = set(frame["selection"])
    return [name for name in SELECTIONS if name in present]


def verdict_selection(selections: list[str]) -> str:
    """The selection that a verdict is given by: validation where the protocol holds classes out, else the last."""
    return "validation" if "validation" in selections else "last"
