"""Builds what a page shows: per group of comparable results its figures and tables."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dmlbench.analysis.groups import Group, done, groups
from dmlbench.analysis.overhead import overhead
from dmlbench.report.canvas import limits_of
from dmlbench.report.curves import curve_plot
from dmlbench.report.figures import accuracy_plot, difference_plot, overhead_plot
from dmlbench.report.layout import Table, accuracy_table, difference_table, other_starts, overhead_table
from dmlbench.report.pictures import Picture, save
from dmlbench.report.style import Look
from dmlbench.report.tables import UNTRAINED, accuracy, differences, seed_differences, seed_values, selections_of

METRIC = "recall_at_1"  # what figures show; tables show all


@dataclass(frozen=True)
class Numbers:
    """All numbers of a report as tidy tables."""

    results: pd.DataFrame
    history: pd.DataFrame
    seed_values: pd.DataFrame
    accuracy: pd.DataFrame
    pairs: pd.DataFrame
    differences: pd.DataFrame
    overhead: pd.DataFrame

    @classmethod
    def of(cls, arranged: pd.DataFrame, history: pd.DataFrame) -> "Numbers":
        """Compute them from results and histories after `groups.arrange`."""
        values = seed_values(arranged)
        finished = history[history["hash"].isin(done(arranged)["hash"])]
        tables = (accuracy(values), seed_differences(values), differences(values), overhead(arranged))
        return cls(arranged, finished, values, *tables)


@dataclass(frozen=True)
class Exhibit:
    """A table and, where there is something to draw, its figure."""

    table: Table
    picture: Picture | None


@dataclass(frozen=True)
class Section:
    """One group of comparable results."""

    group: Group
    facts: str
    accuracy: list[Exhibit]
    differences: list[Exhibit]
    overhead: Exhibit | None
    curves: Picture | None

    @property
    def tables(self) -> list[Table]:
        """Every table of the section."""
        exhibits = [*self.accuracy, *self.differences, *([self.overhead] if self.overhead else [])]
        return [exhibit.table for exhibit in exhibits]


def sections(numbers: Numbers, facts: Callable[[Group], str], figures: Path) -> list[Section]:
    """Build every group's section, and write its figures.

    Args:
        numbers: All numbers of the report.
        facts: A group's protocol and dataset in words.
        figures: An existing folder for PNG and SVG files.
    """
    look = Look.of(numbers.results["base"], numbers.results["modifier"])
    return [
        Section(
            group,
            " ".join([facts(group), *other_starts(group.of(numbers.seed_values))]),
            _accuracy(group, numbers, look, figures),
            _differences(group, numbers, look, figures),
            _overhead(group, numbers, look, figures),
            _curves(group, numbers, look, figures),
        )
        for group in groups(numbers.seed_values)
    ]


def _accuracy(group: Group, numbers: Numbers, look: Look, figures: Path) -> list[Exhibit]:
    estimates, values = (_drawn(group, frame) for frame in (numbers.accuracy, numbers.seed_values))
    trained, seeds = (frame[frame["selection"] != UNTRAINED] for frame in (estimates, values))
    untrained = estimates.loc[estimates["selection"] == UNTRAINED, "mean"]
    reference = float(untrained.iloc[0]) if len(untrained) else np.nan
    exhibits = []
    for selection in selections_of(group.of(numbers.accuracy)):
        shown, dots = (frame[frame["selection"] == selection] for frame in (trained, seeds))
        picture = None
        if len(shown):
            limits = limits_of(trained, seeds["value"])
            picture = save(
                accuracy_plot(group, selection, shown, dots, untrained=reference, look=look, limits=limits), figures
            )
        exhibits.append(Exhibit(accuracy_table(group, selection, numbers.accuracy), picture))
    return exhibits


def _differences(group: Group, numbers: Numbers, look: Look, figures: Path) -> list[Exhibit]:
    estimates, pairs = (_drawn(group, frame) for frame in (numbers.differences, numbers.pairs))
    exhibits = []
    for selection in selections_of(group.of(numbers.differences)):
        shown, dots = (frame[frame["selection"] == selection] for frame in (estimates, pairs))
        picture = None
        if len(shown):
            limits = limits_of(estimates, pairs["value"] - pairs["value_base"], include=[0.0])
            picture = save(difference_plot(group, selection, shown, dots, look=look, limits=limits), figures)
        table = difference_table(group, selection, numbers.differences, numbers.accuracy)
        exhibits.append(Exhibit(table, picture))
    return exhibits


def _overhead(group: Group, numbers: Numbers, look: Look, figures: Path) -> Exhibit | None:
    mine = group.of(numbers.overhead)
    if mine.empty:
        return None
    drawn = mine[mine["n"] > 0]
    picture = save(overhead_plot(group, drawn, look), figures) if len(drawn) else None
    return Exhibit(overhead_table(group, numbers.overhead), picture)


def _curves(group: Group, numbers: Numbers, look: Look, figures: Path) -> Picture | None:
    column = f"test/{METRIC}"
    mine = group.of(numbers.history)
    mine = mine.dropna(subset=[column]) if column in mine else mine.iloc[:0]
    return save(curve_plot(group, mine, look, METRIC), figures) if len(mine) else None


def _drawn(group: Group, frame: pd.DataFrame) -> pd.DataFrame:
    mine = group.of(frame)
    return mine[mine["metric"] == METRIC]
