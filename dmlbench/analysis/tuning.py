"""Tuned values beside those of a method's files, seed by seed."""

from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd

from dmlbench.analysis.estimates import ESTIMATE
from dmlbench.analysis.groups import GROUP, in_order, is_tuned, with_files_values
from dmlbench.analysis.statistics import t_interval
from dmlbench.specs.registry import TUNED_MARK

NOT_RECORDED = "not recorded"
PLACE = ("protocol", "dataset", "method")
Margins = Mapping[tuple[str, ...], str]  # by the names of `PLACE`
NONE: Margins = {}


def tuned_beside_files(values: pd.DataFrame, margins: Margins = NONE) -> pd.DataFrame:
    """What tuning changed: tuned minus the files' values, of one seed, selection and metric.

    Two that did not start from the same weights, with the same images, on the same kind of device, are no pair.

    Args:
        values: As `estimates.seed_values` returns them.
        margins: By how much the values were chosen, in words.

    Returns:
        One row per group, selection, metric and tuned method: `files` (the mean with the files' values) and `tuned`
        over the seeds that both have, `ESTIMATE` of the differences (n is 0 where there is no run with the files'
        values), `trials` that the values were the best of, `margin` to the next. No test: a verdict is of methods, not
        of their settings.
    """
    keys = [*GROUP, "selection", "metric", "seed", "origin"]
    tuned = values[values["method"].map(is_tuned).astype(bool)]
    files = values[[*keys, "method", "value"]].rename(columns={"value": "files", "method": "plain"})
    tuned = tuned.assign(plain=tuned["method"].map(with_files_values))
    pairs = tuned.merge(files, on=[*keys, "plain"], how="left", validate="one_to_one")
    names = [*GROUP, "selection", "metric", "method", "base", "modifier", "marks"]
    rows = [
        dict(zip(names, key, strict=True))
        | {
            "trials": trials_of(str(key[-1])),
            "margin": margins.get(tuple(str(key[names.index(name)]) for name in PLACE), NOT_RECORDED),
            "files": part["files"].mean(),
            "tuned": part["value"].mean(),
        }
        | asdict(t_interval(part["value"] - part["files"]))
        for key, part in ((key, _shared(part)) for key, part in pairs.groupby(names, sort=False))
    ]
    found = pd.DataFrame(rows, columns=[*names, "trials", "margin", "files", "tuned", *ESTIMATE])
    return in_order(found) if len(found) else found


def trials_of(marks: str) -> str:
    """How many trials a row's values were the best of, as `8`, or `8 x 3` of three trainings; "" without tuning."""
    found = TUNED_MARK.search(marks)
    return found[1] if found else ""


def unequal_trials(values: pd.DataFrame) -> list[str]:
    """A note where tuned methods of one base had other numbers of trials than each other; `values` as above."""
    tuned = values[values["method"].map(is_tuned).astype(bool)].drop_duplicates("method")
    notes = []
    for _, part in tuned.groupby("base", sort=False):
        trials = {row["method"]: trials_of(row["marks"]) for row in part.to_dict("records")}
        if len(set(trials.values())) > 1:
            had = ", ".join(f"{method} {count}" for method, count in trials.items())
            notes.append(f"Unequal numbers of trials ({had}): that alone can put one above another.")
    return notes


def _shared(part: pd.DataFrame) -> pd.DataFrame:
    """The seeds with a partner; all, where none has one."""
    paired = part.dropna(subset=["files"])
    return paired if len(paired) else part
