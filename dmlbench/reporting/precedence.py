"""Which of two estimates a report shows first.

A claim's verdict comes before an exploratory one, and a step time of interleaved steps before one of ordinary runs.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from dmlbench.analysis.claims import Effect, Judged
from dmlbench.analysis.costs import measured_overhead
from dmlbench.analysis.groups import GROUP, done
from dmlbench.reporting.naming import named
from dmlbench.results.frames import MEAN
from dmlbench.results.measurements import SYNTHETIC, Measurement

Row = Mapping[Hashable, Any]


def with_claims(compared: pd.DataFrame, claims: Sequence[Judged]) -> pd.DataFrame:
    """Comparisons with the verdict and the simultaneous interval of the claim that names them, if one does.

    A claim over several datasets has no verdict for each of them; where claims disagree on a row, it keeps its own.

    Args:
        compared: Rows of `comparisons`, of one choice of the epoch.
        claims: As `claims.judge` gives them.

    Returns:
        The same rows, with a column `claimed`.
    """
    found: dict[tuple[str, ...], list[Effect]] = {}
    for judged in claims:
        claim = judged.declared.claim
        for effect in judged.bases if len(judged.datasets) == 1 else ():
            key = (effect.name, claim.modifier, *judged.datasets, claim.metric, judged.selection)
            found.setdefault(key, []).append(effect)
    rows: list[Row] = []
    for row in compared.to_dict("records"):
        key = (row["base"], row["modifier"], row["dataset"], row["metric"], row["selection"])
        effects = [effect for effect in found.get(key, []) if _same(effect, row)]
        agreed = len({effect.verdict for effect in effects}) == 1
        own = {"verdict": effects[0].verdict, "all_low": effects[0].low, "all_high": effects[0].high} if agreed else {}
        rows.append(row | own | {"claimed": agreed})
    return pd.DataFrame(rows, columns=[*compared.columns, "claimed"]).astype({"claimed": bool})


def _same(effect: Effect, row: Row) -> bool:
    """Whether a claim's effect is of the pairs of a row: a method with other settings or seeds has the same names."""
    own, n = effect.estimate, row["n"]
    alike = all(math.isclose(getattr(own, name), row[name], abs_tol=1e-12) for name in ("mean", "std"))
    return bool(effect.verdict) and own.n == n and alike and row["network"] == MEAN


def with_interleaved(ratios: pd.DataFrame, measurements: Sequence[Measurement], results: pd.DataFrame) -> pd.DataFrame:
    """Ratios of step times: those of interleaved steps where they were measured, the latest, else of ordinary runs.

    A measurement stands for trainings of the same protocol and kind of device, on images of the dataset before
    synthetic ones, whose weights may be others.

    Args:
        ratios: Rows of `costs.overhead`, named.
        measurements: The oldest first.
        results: What the ratios are of.

    Returns:
        The same rows, with a column `interleaved`.
    """
    latest: dict[tuple[Hashable, ...], Row] = {}
    for own in measurements:
        images = (SYNTHETIC, "") if own.dataset == SYNTHETIC else (own.dataset, own.protocol_hash)
        for row in named(measured_overhead(own)).to_dict("records"):
            place = (own.protocol, _timed(own.variant), own.environment.device_kind)
            latest[(*place, *images, row["name"], row["to_name"])] = row
    of_group = dict(iter(done(results).groupby(GROUP)[["origin", "protocol_hash"]]))
    trained = named(ratios.assign(network=MEAN))["name"]  # an ensemble is of the networks that were trained
    rows: list[Row] = []
    for name, row in zip(trained, ratios.to_dict("records"), strict=True):
        group = of_group[tuple(row[column] for column in GROUP)]
        devices = " ".join({origin.partition("/")[0] for origin in group["origin"]})  # of several there is no match
        place = (row["protocol"], _timed(str(row["overrides"])), devices)
        known = [*((row["dataset"], own) for own in set(group["protocol_hash"])), (SYNTHETIC, "")]
        keys = [(*place, *images, name, row["to_name"]) for images in known]
        better = next((latest[key] for key in keys if key in latest), None)
        replaced = {column: better[column] for column in ("mean", "low", "high", "n")} if better else {}
        rows.append(row | replaced | {"interleaved": better is not None})
    return pd.DataFrame(rows, columns=[*ratios.columns, "interleaved"]).astype({"interleaved": bool})


def _timed(variant: str) -> str:
    """What of a protocol's variant a step's time depends on: all but the weights it begins with."""
    return ", ".join(part for part in variant.split(", ") if not part.startswith("model.weights="))
