"""Builds what a page shows of one group of comparable results: its verdicts, figures and tables."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmlbench.analysis.comparisons import to_base
from dmlbench.analysis.estimates import SELECTIONS, UNTRAINED, selections_of, verdict_selection
from dmlbench.analysis.groups import Group, groups
from dmlbench.measurement import Measurement
from dmlbench.readouts import is_of_one_member
from dmlbench.report.canvas import Plot, limits_of
from dmlbench.report.figures import (
    accuracy_plot,
    curve_plot,
    difference_plot,
    embedding_plot,
    geometry_plot,
    optimism_plot,
    overhead_plot,
    phases_plot,
    plane_plot,
    selection_plot,
)
from dmlbench.report.numbers import METRIC, Numbers
from dmlbench.report.pictures import Picture, save
from dmlbench.report.queries import Panels, Queries
from dmlbench.report.section import Part, Section
from dmlbench.report.style import Look
from dmlbench.report.tables import accuracy_table, difference_table, evidence_table, overhead_table, selection_table
from dmlbench.report.tables.notes import about_pairs, without_base
from dmlbench.report.tables.queries import queries_table
from dmlbench.report.tables.tuning import tuning_table
from dmlbench.report.verdict import verdicts

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
Call = tuple[str, tuple[Any, ...]]  # a method's name and its arguments
GEOMETRY = ("spectral_decay", "intra_over_inter")


@dataclass(frozen=True)
class Material:
    """What sections are built from.

    `figures` is an existing folder for PNG, SVG and CSV files; without `panels` no images are shown; `measurements` are
    those of `dmlbench overhead`; `codes` are the digests of the training code that made the results.
    """

    numbers: Numbers
    queries: Queries
    figures: Path
    panels: Panels | None = None
    measurements: tuple[Measurement, ...] = ()
    codes: frozenset[str] = frozenset()

    @cached_property
    def look(self) -> Look:
        """Colours and signs for every method of the report."""
        measured = [method for measurement in self.measurements for method in measurement.methods.values()]
        bases = [*self.numbers.results["base"], *(method.base for method in measured)]
        return Look.of(bases, [*self.numbers.results["modifier"], *(method.modifier for method in measured)])

    def drawn(self, *plots: Plot | None) -> list[Picture]:
        """Write figures, those that there are."""
        return [save(plot, self.figures) for plot in plots if plot is not None]


def group_sections(
    material: Material, facts: Callable[[Group], str], tell: Callable[[str], None], each: Map = map
) -> list[Section]:
    """Build every group's section, and write its figures.

    Args:
        material: All that the report shows.
        facts: A group's protocol and dataset in words.
        tell: Is told of every group.
        each: Calls a function for each of many, as `map` does: in several processes where there is much to draw.
    """
    every = [_Group(group, material) for group in groups(material.numbers.seeds)]
    parts = each(_built, [(own, *call) for own in every for call in own.calls()])
    sections = []
    for own in every:
        tell(f"drawing {own.group.title}")
        found = list(itertools.islice(parts, len(own.calls())))
        sections.append(own.section(facts(own.group), found))
    return sections


class _Group:
    """One group's numbers, and what is drawn of them."""

    def __init__(self, group: Group, material: Material) -> None:
        self.group, self.material = group, material
        self.look, self._drawn = material.look, material.drawn
        self.numbers = numbers = material.numbers
        self.means = _of_metric(group, numbers.accuracy)
        self.trained = self.means[self.means["selection"] != UNTRAINED]
        self.values = _of_metric(group, numbers.seeds)
        self.to_base = to_base(_of_metric(group, numbers.comparisons))
        self.pairs = to_base(_of_metric(group, numbers.pairs))
        self.selections = selections_of(group.of(numbers.accuracy))
        self.chosen = verdict_selection(self.selections)

    def calls(self) -> list[Call]:
        """What builds the section's parts, in their order."""
        others = [name for name in self.selections if name != self.chosen]
        rest = ("_tuning", "_selection", "_cost", "_curves", "_geometry", "_by_query")
        accuracies: list[Call] = [("_accuracy", (name, name != self.chosen)) for name in (self.chosen, *others)]
        return accuracies + [(name, ()) for name in rest]

    def section(self, facts: str, parts: list[Part]) -> Section:
        found = self.to_base[self.to_base["selection"] == self.chosen]
        return Section(
            self.group.slug,
            self.group.title,
            " ".join([facts, *about_pairs(self.group.of(self.numbers.seeds))]),
            [part for part in parts if part.pictures or part.tables],
            self.group,
            verdicts(self.group, found, self.numbers.overhead),
        )

    def _accuracy(self, selection: str, folded: bool) -> Part:
        """Accuracy and differences under one choice of the epoch."""
        numbers, group = self.numbers, self.group
        heading, tables = "Accuracy", [accuracy_table(group, selection, numbers.accuracy)]
        # How accuracy depends on the choice is a figure of its own.
        plots = [None if folded else self._accuracy_plot(selection), self._difference_plot(selection)]
        if (group.of(numbers.seeds)["modifier"] != "").any():
            heading = "Accuracy and difference to the base"
            evidence = evidence_table(group, selection, METRIC, numbers.comparisons)
            tables += [evidence] if evidence.rows else []
            differences = difference_table(group, selection, to_base(numbers.comparisons), numbers.accuracy)
            tables += [differences] if differences.rows else []
        # Below the differences, too, but there may be none.
        alone = "" if len(self.to_base) else " ".join(without_base(self.trained, self.to_base))
        return Part(f"{heading}: {SELECTIONS[selection]}", self._drawn(*plots), tables, alone, folded)

    def _accuracy_plot(self, selection: str) -> Plot | None:
        shown, dots = (frame[frame["selection"] == selection] for frame in (self.trained, self.values))
        if shown.empty:
            return None
        untrained = self.means.loc[self.means["selection"] == UNTRAINED, "mean"]
        reference = float(untrained.iloc[0]) if len(untrained) else np.nan
        seeds = self.values.loc[self.values["selection"] != UNTRAINED, "value"]
        limits = limits_of(self.trained, seeds)
        return accuracy_plot(self.group, selection, shown, dots, untrained=reference, look=self.look, limits=limits)

    def _difference_plot(self, selection: str) -> Plot | None:
        shown, dots = (frame[frame["selection"] == selection] for frame in (self.to_base, self.pairs))
        if shown.empty:
            return None
        limits = limits_of(self.to_base, self.pairs["value"] - self.pairs["value_to"], include=[0.0])
        return difference_plot(self.group, selection, shown, dots, look=self.look, limits=limits)

    def _tuning(self) -> Part:
        found = _of_metric(self.group, self.numbers.tuning)
        found = found[found["selection"] == self.chosen]
        if found.empty:
            return Part("")
        return Part("Tuned values beside the files'", [], [tuning_table(self.group, found)])

    def _selection(self) -> Part:
        numbers, group = self.numbers, self.group
        added = _of_metric(group, numbers.optimism)
        if added.empty:
            return Part("")
        both = self.values[self.values["selection"].isin(["last", "best_test"])]
        plots = [selection_plot(group, self.trained, self.look), optimism_plot(group, added, both, self.look)]
        table = selection_table(group, METRIC, numbers.accuracy, to_base(numbers.comparisons), numbers.optimism)
        text = (
            "Published figures are usually those of the best epoch on the test classes. What that choice adds is no "
            "property of a method, and it is not the same for all."
        )
        return Part("How the epoch was chosen", self._drawn(*plots), [table], text)

    def _cost(self) -> Part:
        ratios, phases = self.group.of(self.numbers.overhead), self.group.of(self.numbers.phases)
        measured, plots = ratios[ratios["n"] > 0], []
        gains = self.to_base[self.to_base["selection"] == self.chosen]
        if len(measured):
            plots.append(overhead_plot(self.group, measured, self.look))
        if len(phases):
            plots.append(phases_plot(self.group, phases))
        if set(measured["method"]) & set(gains["method"]):
            plots.append(plane_plot(self.group, self.chosen, gains, measured, self.look))
        tables = [overhead_table(self.group, self.numbers.overhead)] if len(ratios) else []
        modified = self.trained.loc[self.trained["modifier"] != "", "method"].unique()
        without = [name for name in modified if name not in set(measured["method"]) and not is_of_one_member(name)]
        why = "no step times of it and its base of the same seed, machine and load"
        text = f"No time ratio for {', '.join(without)}: {why} (cells that sampled system metrics have none)."
        return Part("Training time", self._drawn(*plots), tables, text if without else "")

    def _curves(self) -> Part:
        column, mine = f"test/{METRIC}", self.group.of(self.numbers.history)
        mine = mine.dropna(subset=[column]) if column in mine else mine.iloc[:0]
        if mine.empty:
            return Part("")
        return Part("Learning curves", self._drawn(curve_plot(self.group, mine, self.look, METRIC)))

    def _geometry(self) -> Part:
        measured, cells = (self.group.of(frame) for frame in (self.numbers.seeds, self.numbers.results))
        plots: list[Plot | None] = []
        if {*GEOMETRY, METRIC} <= set(measured.loc[measured["selection"] == "last", "metric"]):
            plots.append(geometry_plot(self.group, measured, self.look))
        if not self.material.queries.measured.keys().isdisjoint(cells["folder"]):
            plots.append(embedding_plot(self.group, cells, self.material.queries.measured, self.look))
        return Part("Embedding geometry", self._drawn(*plots))

    def _by_query(self) -> Part:
        if self.group.of(self.material.queries.evidence).empty:
            return Part("")
        queries, panels = self.material.queries, self.material.panels
        plots = queries.panels(self.group, panels) if panels else []
        return Part("Query by query", self._drawn(*plots), [queries_table(self.group, queries.evidence)])


def _built(call: tuple[_Group, str, tuple[Any, ...]]) -> Part:
    """A part of a section; in a process of its own, for all of it can be sent."""
    own, name, arguments = call
    part: Part = getattr(own, name)(*arguments)
    return part


def _of_metric(group: Group, frame: pd.DataFrame) -> pd.DataFrame:
    mine = group.of(frame)
    return mine[mine["metric"] == METRIC]
