"""Tuned values beside those of a method's files, seed by seed."""

import re
from dataclasses import asdict

import pandas as pd

from dmlbench.analysis.estimates import ESTIMATE
from dmlbench.analysis.groups import GROUP
from dmlbench.analysis.order import in_order
from dmlbench.analysis.statistics import t_interval
from dmlbench.registry import TUNED_MARK
from dmlbench.spec import TUNED

SUFFIX = f"{{{TUNED}}}"
TRIALS = re.compile(re.escape(TUNED_MARK).replace(r"\{\}", r"(\d+)"))


def tuned_beside_files(values: pd.DataFrame) -> pd.DataFrame:
    """What tuning changed: tuned minus the files' values, of one seed, selection and metric.

    Two that did not start from the same weights, with the same images, on the same kind of device, are no pair.

    Args:
        values: As `estimates.seed_values` returns them.

    Returns:
        One row per group, selection, metric and tuned method: `files` (the mean with the files' values) and `tuned`
        over the seeds that both have, `ESTIMATE` of the differences, `trials` that the values were the best of. No
        test: a verdict is of methods, not of their settings.
    """
    keys = [*GROUP, "selection", "metric", "seed", "origin"]
    tuned = values[values["method"].str.endswith(SUFFIX)]
    files = values[[*keys, "method", "value"]].rename(columns={"value": "files", "method": "plain"})
    tuned = tuned.assign(plain=tuned["method"].str.removesuffix(SUFFIX))
    pairs = tuned.merge(files, on=[*keys, "plain"], how="inner", validate="one_to_one")
    names = [*GROUP, "selection", "metric", "method", "base", "modifier", "marks"]
    rows = [
        dict(zip(names, key, strict=True))
        | {
            "trials": trials_of(str(part["marks"].iloc[0])),
            "files": part["files"].mean(),
            "tuned": part["value"].mean(),
        }
        | asdict(t_interval(part["value"] - part["files"]))
        for key, part in pairs.groupby(names, sort=False)
    ]
    found = pd.DataFrame(rows, columns=[*names, "trials", "files", "tuned", *ESTIMATE])
    return in_order(found) if len(found) else found


def trials_of(marks: str) -> int | None:
    """How many trials a row's values were the best of; None for one that was not tuned."""
    found = TRIALS.search(marks)
    return int(found[1]) if found else None
