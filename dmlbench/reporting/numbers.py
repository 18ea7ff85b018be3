"""All numbers of a report as tidy tables."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from dmlbench.analysis.comparisons import comparisons, over_datasets, pooled, seed_pairs
from dmlbench.analysis.costs import overhead, phase_times
from dmlbench.analysis.estimates import accuracy, optimism, seed_values
from dmlbench.analysis.groups import DEFAULT, GROUP, Against, Group, check_against, done
from dmlbench.analysis.leaderboard import leaderboard
from dmlbench.analysis.published import NONE, reproduction
from dmlbench.analysis.tuning import NONE as NO_MARGINS
from dmlbench.analysis.tuning import Margins, tuned_beside_files
from dmlbench.reporting.naming import named

METRIC = "recall_at_1"  # what verdicts are given by and figures show; tables show all


@dataclass(frozen=True)
class Numbers:
    """All numbers of a report, with the names of methods; every table of it is a part of one of these."""

    results: pd.DataFrame
    history: pd.DataFrame
    seeds: pd.DataFrame
    accuracy: pd.DataFrame
    leaderboard: pd.DataFrame
    optimism: pd.DataFrame
    pairs: pd.DataFrame
    comparisons: pd.DataFrame
    pooled: pd.DataFrame
    over_datasets: pd.DataFrame
    overhead: pd.DataFrame
    phases: pd.DataFrame
    reproduction: pd.DataFrame
    tuning: pd.DataFrame
    evaluated: pd.DataFrame

    @classmethod
    def of(
        cls,
        results: pd.DataFrame,
        history: pd.DataFrame,
        other_images: Mapping[Group, str] = NONE,
        margins: Margins = NO_MARGINS,
        against: Against = DEFAULT,
        *,
        evaluated: pd.DataFrame | None = None,
    ) -> "Numbers":
        """Compute them from results and histories; `evaluated` are the rows of what was not trained here.

        `other_images` is as for `reproduction`, `margins` as for `tuned_beside_files`, `against` as for `references`.
        """
        check_against(results, against)
        finished = history[history["hash"].isin(done(results)["hash"])]
        values = seed_values(results)
        means, pairs = accuracy(values), seed_pairs(values, against)
        timed = results[results["step_ms"].notna() & results["exclusive"].astype(bool)]
        found = {
            "results": results,
            "history": finished,
            "seeds": values,
            "accuracy": means,
            "leaderboard": leaderboard(values, evaluated),
            "optimism": optimism(values),
            "pairs": pairs,
            "comparisons": comparisons(pairs, values),
            "pooled": pooled(pairs, values),
            "over_datasets": over_datasets(values),
            "overhead": overhead(results, against),
            "phases": phase_times(finished[finished["hash"].isin(timed["hash"])]),
            "reproduction": reproduction(means, other_images),
            "tuning": tuned_beside_files(values, margins),
            "evaluated": results.iloc[:0] if evaluated is None else evaluated,
        }
        return cls(**{name: named(frame) for name, frame in found.items()})

    def of_group(self, group: Group) -> "Numbers":
        """Those of one group; what is of several datasets has none."""
        tables = vars(self)
        return Numbers(
            **{name: group.of(frame) if set(GROUP) <= set(frame) else frame.iloc[:0] for name, frame in tables.items()}
        )
