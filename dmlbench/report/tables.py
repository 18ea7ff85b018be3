"""The numbers of a report as tidy tables: one row per method and metric, fractions in full precision."""

from dataclasses import asdict
from typing import Any

import pandas as pd

from dmlbench.analysis.groups import GROUP, done, paired_with_base
from dmlbench.analysis.statistics import Estimate, paired_difference, t_interval
from dmlbench.results import INDEX

UNTRAINED = "untrained"
# How the epoch was chosen stands in every title: the three are shown side by side and never mixed.
SELECTIONS = {
    "last": "last epoch",
    "validation": "epoch chosen by MAP@R on held-out training classes",
    "best_test": "best test epoch (as published: chosen on the test classes)",
}
METHOD = ["method", "base", "modifier", "marks"]
NOT_METRICS = {
    *INDEX, "hash", "status", "marks", "folder", "step_ms", "train_seconds", "machine", "origin", "error", "selection",
    "epoch",
}  # fmt: skip


def seed_values(arranged: pd.DataFrame) -> pd.DataFrame:
    """Every measured value: one row per group, selection, method, metric and seed.

    Args:
        arranged: Results after `groups.arrange`.

    Returns:
        Columns `GROUP`, selection, `METHOD`, seed, origin, metric, value.
    """
    metrics = [column for column in arranged.columns if column not in NOT_METRICS]
    names = [*GROUP, "selection", *METHOD, "seed", "origin"]
    if not metrics:
        return pd.DataFrame(columns=[*names, "metric", "value"])
    long = done(arranged).melt(names, metrics, var_name="metric").dropna(subset=["value"])
    return long.astype({"value": float}).reset_index(drop=True)


def accuracy(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with its 95% t-interval, per group, selection, method and metric.

    Args:
        values: As `seed_values` returns them.

    Returns:
        Columns `GROUP`, selection, `METHOD`, metric, mean, low, high, n. The untrained network is one row per group
        and metric under the selection `untrained` and the method `untrained`: the same seed gives every method the
        same initial network, so it counts once per seed.
    """
    untrained = values["selection"] == UNTRAINED
    keys = [*GROUP, "selection", "metric"]
    network = values[untrained].groupby([*keys, "seed"], sort=False, as_index=False)["value"].mean()
    network = network.assign(method=UNTRAINED, base="", modifier="", marks="")
    rows = pd.concat([network, values[~untrained]], ignore_index=True) if untrained.any() else values
    keys = [*GROUP, "selection", *METHOD, "metric"]
    return _estimates(keys, [(key, t_interval(part["value"])) for key, part in rows.groupby(keys, sort=False)])


def differences(values: pd.DataFrame) -> pd.DataFrame:
    """Difference of every modified method to its own base, paired by seed, with the paired 95% t-interval.

    Args:
        values: As `seed_values` returns them.

    Returns:
        Columns `GROUP`, selection, `METHOD`, metric, mean, low, high, n (pairs). A method without a base of the same
        group has no row.
    """
    keys = [*GROUP, "selection", *METHOD, "metric"]
    pairs = seed_differences(values).set_index("seed")
    found = [
        (key, paired_difference(part["value"], part["value_base"])) for key, part in pairs.groupby(keys, sort=False)
    ]
    return _estimates(keys, found)


def seed_differences(values: pd.DataFrame) -> pd.DataFrame:
    """Values of modified methods beside their base's (`value_base`) of the same seed, selection and metric.

    Two that did not start from the same weights, with the same images, on the same kind of device, are no pair:
    see `other_origins`.
    """
    pairs = _candidates(values)
    return pairs[pairs["origin"] == pairs["origin_base"]]


def other_origins(values: pd.DataFrame) -> dict[str, int]:
    """How many seeds of each method form no pair, for the base's run had another origin."""
    pairs = _candidates(values)
    dropped = pairs[pairs["origin"] != pairs["origin_base"]].drop_duplicates([*GROUP, "method", "seed"])
    return {str(method): int(count) for method, count in dropped.groupby("method", sort=False).size().items()}


def _candidates(values: pd.DataFrame) -> pd.DataFrame:
    trained = values[values["selection"] != UNTRAINED]
    return paired_with_base(trained, [*GROUP, "selection", "metric"], ["value", "origin"])


def selections_of(frame: pd.DataFrame) -> list[str]:
    """The selections a table holds, in the order of `SELECTIONS`."""
    present = set(frame["selection"])
    return [name for name in SELECTIONS if name in present]


def _estimates(keys: list[str], found: list[tuple[Any, Estimate]]) -> pd.DataFrame:
    rows = [dict(zip(keys, key, strict=True)) | asdict(estimate) for key, estimate in found]
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n"])
