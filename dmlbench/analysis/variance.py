"""Where results spread from: initial weights, order of images, split of classes, test classes, tuning.

`dmlbench run --vary init` lets a seed decide one source alone, with the others as in seed 0 (Bouthillier et al. 2021,
"Accounting for variance in machine learning benchmarks", MLSys).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dmlbench.analysis.comparisons import primary
from dmlbench.analysis.estimates import accuracy
from dmlbench.analysis.groups import GROUP, METHOD
from dmlbench.analysis.leaderboard import METRICS
from dmlbench.analysis.queries import Measured, class_bootstrap
from dmlbench.analysis.statistics import FEWEST
from dmlbench.results.frames import of_kept_embeddings
from dmlbench.specs.cell import VARY
from dmlbench.specs.overrides import Settings

SEEDS, CLASSES, TUNING = "all", "classes", "tuning"
SOURCES = {  # in their order: names for people
    SEEDS: "seed (initial weights and order)",
    "init": "initial weights",
    "order": "order and augmentation",
    "split": "split of classes",
    CLASSES: "test classes",
    TUNING: "tuning",
}
DIFFERENCE = "difference"  # of R@1 to the reference
SPREAD = ["source", "metric", "n", "std", "low", "high"]
OVER_CLASSES = ["mean", "low", "high", "n", "std"]


def variances(
    values: pd.DataFrame, comparisons: pd.DataFrame, over_classes: pd.DataFrame, chosen: pd.DataFrame
) -> pd.DataFrame:
    """Standard deviations of results at the last epoch by source.

    Args:
        values: As `estimates.seed_values` returns them.
        comparisons: As `comparisons.comparisons` returns them.
        over_classes: As `over_test_classes` returns them.
        chosen: What repeated studies of tuning chose: columns `GROUP`, `METHOD`, study, and `test`, the MAP@R of the
            values on the test classes, NaN where they were not run.

    Returns:
        Columns `GROUP`, `METHOD` and `SPREAD`, in groups that have a source other than `all`: `metric` is R@1, MAP@R
        or `difference` (R@1 minus the reference's, paired by seed); `n` counts seeds, classes or studies; `std` has its
        95% interval `low`, `high` (chi-squared; none below `FEWEST` values, nor for test classes). `overrides` is
        without `training.vary`.
    """
    rows = [*_of_seeds(values, comparisons), *_of_classes(over_classes), *_of_studies(chosen)]
    found = pd.DataFrame(rows, columns=[*GROUP, *METHOD, *SPREAD])
    apart = found.loc[found["source"] != SEEDS, GROUP].drop_duplicates()
    return found.merge(apart, on=GROUP)


def _of_seeds(values: pd.DataFrame, comparisons: pd.DataFrame) -> Iterator[dict[str, Any]]:
    last = accuracy(values[(values["selection"] == "last") & values["metric"].isin(METRICS)])
    paired = primary(comparisons)
    paired = paired[(paired["selection"] == "last") & (paired["metric"] == METRICS[0])]
    for row in (*last.to_dict("records"), *paired.assign(metric=DIFFERENCE).to_dict("records")):
        if row["n"] > 1:
            overrides, source = split_source(row["overrides"])
            key = {name: row[name] for name in (*GROUP, *METHOD)} | {"overrides": overrides}
            yield key | _spread(source, row["metric"], row["n"], row["std"])


def _of_classes(over_classes: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in over_classes.to_dict("records"):
        if split_source(row["overrides"])[1] != SEEDS:
            continue
        key = {name: row[name] for name in (*GROUP, *METHOD)}
        bounds = {"low": np.nan, "high": np.nan}
        yield key | _spread(CLASSES, METRICS[0], row["n"], row["std"]) | bounds


def _of_studies(chosen: pd.DataFrame) -> Iterator[dict[str, Any]]:
    tested = chosen.dropna(subset=["test"])
    for key, own in tested.groupby([*GROUP, *METHOD], sort=False):
        if len(own) > 1:
            shared = dict(zip([*GROUP, *METHOD], key, strict=True))
            yield shared | _spread(TUNING, METRICS[1], len(own), float(own["test"].std(ddof=1)))


def _spread(source: str, metric: str, n: int, std: float) -> dict[str, Any]:
    """A standard deviation with its 95% interval: of normal values, (n - 1) s^2 / sigma^2 is chi-squared."""
    low = high = np.nan
    if n >= FEWEST:
        low, high = (float(std * np.sqrt((n - 1) / stats.chi2.ppf(q, n - 1))) for q in (0.975, 0.025))
    return {"source": source, "metric": metric, "n": n, "std": std, "low": low, "high": high}


def split_source(overrides: Settings) -> tuple[Settings, str]:
    """The settings of a protocol without `training.vary`, and its value."""
    varied = [pair for pair in overrides.pairs if pair.startswith(VARY)]
    rest = Settings(tuple(pair for pair in overrides.pairs if pair not in varied))
    return rest, varied[0].removeprefix(VARY) if varied else SEEDS


def over_test_classes(results: pd.DataFrame, measured: Mapping[str, Measured]) -> pd.DataFrame:
    """R@1 at the last epoch with its 95% interval over test classes, where embeddings were kept.

    Each query counts by the share of seeds that hit it, and whole classes are drawn (`queries.class_bootstrap`). The
    interval says how far the mean over these seeds would move with other classes of the same kind.

    Args:
        results: As `load_results` returns them.
        measured: As `queries.measure_kept` returns them.

    Returns:
        One row per group and method: columns `GROUP`, `METHOD` and `OVER_CLASSES`; `n` counts classes, `std` is that of
        the bootstrap. Seeds with other images than the method's first are left out.
    """
    last = results[(results["selection"] == "last") & results["folder"].isin(list(measured))]
    rows = []
    for key, own in of_kept_embeddings(last).groupby([*GROUP, *METHOD], sort=False):
        cells = [measured[folder] for folder in own.sort_values("seed")["folder"]]
        first = cells[0]
        queries = first.nearest.queries
        hits = np.mean([one.nearest.hits for one in cells if one.shares_images(first)], axis=0)[queries]
        found = class_bootstrap(hits, np.zeros_like(hits), first.labels[queries])
        rows.append(dict(zip([*GROUP, *METHOD], key, strict=True)) | vars(found))
    return pd.DataFrame(rows, columns=[*GROUP, *METHOD, *OVER_CLASSES])
