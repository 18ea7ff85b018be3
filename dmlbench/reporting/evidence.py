"""The best evidence on a row of the first screen.

A claim's verdict comes before an exploratory one, and a step time of interleaved steps before one of ordinary runs.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from dmlbench.analysis.claims import Effect, Judged
from dmlbench.analysis.costs import measured_frame
from dmlbench.analysis.groups import done
from dmlbench.reporting.naming import named
from dmlbench.results.frames import MEAN
from dmlbench.results.measurements import Measurement


def with_claims(compared: pd.DataFrame, claims: Sequence[Judged]) -> pd.DataFrame:
    """Comparisons with the verdict and the simultaneous interval of the claim that names them, if one does.

    A claim over several datasets has no verdict for each of them; where claims disagree on a row, it keeps its own.

    Args:
        compared: Rows of `comparisons`, named, of one choice of the epoch.
        claims: As `claims.judge` gives them.

    Returns:
        The same rows, with a column `claimed`.
    """
    found: dict[tuple[str, ...], list[Effect]] = {}
    for judged in claims:
        for effect in judged.bases if len(judged.datasets) == 1 else ():
            claim = judged.declared.claim
            key = (f"{effect.name}+{claim.modifier}", effect.name, *judged.datasets, claim.metric, judged.selection)
            found.setdefault(key, []).append(effect)
    keys = compared[["name", "to_name", "dataset", "metric", "selection"]].itertuples(index=False, name=None)
    rows: list[Mapping[Hashable, Any]] = []
    for key, row in zip(keys, compared.to_dict("records"), strict=True):
        effects = found.get(key, [])
        agreed = len({effect.verdict for effect in effects}) == 1
        own = {"verdict": effects[0].verdict, "all_low": effects[0].low, "all_high": effects[0].high} if agreed else {}
        rows.append(row | own | {"claimed": agreed})
    return pd.DataFrame(rows, columns=[*compared.columns, "claimed"]).astype({"claimed": bool})


def with_interleaved(ratios: pd.DataFrame, measurements: Sequence[Measurement], results: pd.DataFrame) -> pd.DataFrame:
    """Ratios of step times: those of interleaved steps where they were measured, the latest, else of ordinary runs.

    Args:
        ratios: Rows of `costs.overhead`, named.
        measurements: The oldest first.
        results: What the ratios are of: a measurement counts where they were all trained on its kind of device.

    Returns:
        The same rows, with a column `interleaved`.
    """
    kinds = {(own.started, own.device): own.environment.device_kind for own in measurements}
    used = done(results).assign(kind=results["origin"].str.partition("/")[0])
    devices = {tuple(map(str, scope)): set(own["kind"]) for scope, own in used.groupby(["protocol", "overrides"])}
    key = ("protocol", "variant", "name", "to_name")
    measured = named(measured_frame(measurements)).to_dict("records")
    latest = {
        tuple(row[name] for name in key): row
        for row in measured
        if devices.get((row["protocol"], row["variant"])) == {kinds[row["started"], row["device"]]}
    }
    trained = named(ratios.assign(network=MEAN))["name"]  # an ensemble is of the networks that were trained
    rows: list[Mapping[Hashable, Any]] = []
    for name, row in zip(trained, ratios.to_dict("records"), strict=True):
        better = latest.get((row["protocol"], str(row["overrides"]), name, row["to_name"]))
        replaced = {name: better[name] for name in ("mean", "low", "high", "n")} if better else {}
        rows.append(row | replaced | {"interleaved": better is not None})
    return pd.DataFrame(rows, columns=[*ratios.columns, "interleaved"]).astype({"interleaved": bool})
