"""The finalists of every study of tuning, with the test scores of those values that were run."""

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from dmlbench.analysis.groups import GROUP, METHOD, done, in_order
from dmlbench.reporting.naming import named
from dmlbench.reporting.sources import Specs
from dmlbench.results.frames import MEAN
from dmlbench.specs.overrides import Settings
from dmlbench.specs.tuned import Finalist, Tuned, identity_of

SCORES = ["held_out", "held_out_se", "pairs", "test", "seeds"]
COLUMNS = [*GROUP, *METHOD, "study", "budget", "margin", "choice", "files", "chosen", "values", *SCORES]
METRIC = "map_at_r"


def no_finalists() -> pd.DataFrame:
    """What `read_finalists` returns where nothing was tuned."""
    return named(pd.DataFrame(columns=COLUMNS))


def read_finalists(studies: Sequence[Tuned], results: pd.DataFrame, specs: Specs) -> pd.DataFrame:
    """Finalists of studies, of methods and protocols that have results.

    Args:
        studies: As `read_studies` gives them.
        results: As `load_results` returns them.
        specs: Of each finished cell, by folder.

    Returns:
        One row per group, method, study and finalist: `held_out`, mean MAP@R on held-out training classes with its
        standard error over `pairs` of fold and seed; `test`, the mean MAP@R on the test classes at the last epoch over
        `seeds` that ran with its values, tuned or not; whether these are the `files`', and `chosen`; of the study
        `budget`, `margin` and `choice` in words. A study without a search has a row without scores.
    """
    last = done(results)
    last = last[(last["selection"] == "last") & (last["network"] == MEAN)]
    rows = [row for entry in studies for row in _rows(entry, last, specs)]
    return named(in_order(pd.DataFrame(rows, columns=COLUMNS))) if rows else no_finalists()


def _rows(entry: Tuned, last: pd.DataFrame, specs: Specs) -> Iterator[dict[str, Any]]:
    names = (last["protocol"] == entry.protocol) & (last["dataset"] == entry.dataset)
    mine = last[names & (last["method"] == entry.method)]
    mine = mine[[_is_of(entry, specs, folder) for folder in mine["folder"]]]
    for group, cells in mine.groupby(GROUP, sort=False):
        none = {"base_settings": Settings(), "modifier_settings": Settings(), "tuned": False}
        shared = dict(zip(GROUP, group, strict=True)) | {key: cells[key].iloc[0] for key in METHOD} | none
        shared |= {
            "study": entry.study_seed, "budget": f"{entry.budget} epochs", "margin": entry.margin,
            "choice": "the files'" if entry.stayed else entry.choice,
        }  # fmt: skip
        finalists = entry.finalists or (entry.without_scores(),)
        for number, finalist in enumerate(finalists):
            words = entry.searched(finalist)
            own = {"files": number == 0, "chosen": words == entry.choice, "values": words}
            yield shared | own | _scores(finalist.map_at_r) | _test(finalist, cells, specs)


def _is_of(entry: Tuned, specs: Specs, folder: str) -> bool:
    """Whether a cell has the method, the images and the protocol of an entry, whatever its searched values."""
    cell = specs[folder]
    identity = identity_of(cell.method, cell.dataset, cell.protocol)
    same = cell.method.tuned is not None or identity["method_hash"] == entry.method_hash
    return same and entry.is_of(identity)


def _scores(held_out: Sequence[float]) -> dict[str, float]:
    error = stdev(held_out) / sqrt(len(held_out)) if len(held_out) > 1 else float("nan")
    mean = fmean(held_out) if held_out else float("nan")
    return {"held_out": mean, "held_out_se": error, "pairs": len(held_out)}


def _test(finalist: Finalist, cells: pd.DataFrame, specs: Specs) -> dict[str, float]:
    """The test score of a finalist's values; a cell with the files' and a tuned one of the same are one seed."""
    same = cells[[finalist.is_of(specs[folder].method) for folder in cells["folder"]]]
    same = same.sort_values("tuned", kind="stable").drop_duplicates("seed")
    return {"test": float(same[METRIC].mean()), "seeds": len(same)}
