"""What a page is made of: sections of parts, each with its figures and tables.

Builds what a page shows of one group of comparable results: its verdicts, figures and tables.

What a page shows beyond single groups: several datasets of one protocol, and published figures beside ours.

A section for everything that `dmlbench overhead` measured: one machine, one protocol, one kind of image.
"""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmlbench.analysis.claims import Judged
from dmlbench.analysis.comparisons import primary
from dmlbench.analysis.costs import (
    agreements,
    by_setup,
    doubts,
    measured_frame,
    measured_overhead,
    measured_phases,
    measurement_slug,
)
from dmlbench.analysis.estimates import SELECTIONS, selections_of, verdict_selection
from dmlbench.analysis.groups import DEFAULT, METHOD, Against, Group, groups, in_order, paired, slug, without_paths
from dmlbench.analysis.variance import variances
from dmlbench.errors import counted
from dmlbench.reporting.figures import (
    Setup,
    accuracy_plot,
    curve_plot,
    difference_plot,
    embedding_plot,
    forest_plot,
    gain_curve_plot,
    geometry_plot,
    optimism_plot,
    overhead_plot,
    phases_plot,
    plane_plot,
    ranks_plot,
    selection_plot,
    trace_plot,
    turns,
)
from dmlbench.reporting.naming import named
from dmlbench.reporting.numbers import METRIC, Numbers
from dmlbench.reporting.pictures import Picture, save
from dmlbench.reporting.precedence import with_interleaved
from dmlbench.reporting.processes import Map
from dmlbench.reporting.queries import Panels, Queries
from dmlbench.reporting.sources import code_state, for_readers
from dmlbench.reporting.studies import no_finalists
from dmlbench.reporting.style import Look, Plot, limits_of
from dmlbench.reporting.tables import (
    Table,
    accuracy_table,
    difference_table,
    evidence_table,
    over_datasets_table,
    overhead_table,
    pooled_table,
    reproduction_table,
    selection_table,
)
from dmlbench.reporting.tables.accuracy import (
    leaderboard_table,
    queries_table,
    studies_table,
    tuning_table,
    variance_table,
)
from dmlbench.reporting.tables.comparison import Verdict, can_rank, verdicts
from dmlbench.reporting.tables.cost import measured_table
from dmlbench.reporting.tables.table import about_pairs, without_base
from dmlbench.results.frames import ENSEMBLE, MEAN, UNTRAINED
from dmlbench.results.measurements import SYNTHETIC, Measurement
from dmlbench.specs.overrides import Settings


@dataclass(frozen=True)
class Part:
    """Figures and tables under one heading; a `folded` part is shown when it is asked for."""

    heading: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    text: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A page's section; `slug` is its anchor, `group` whose results it shows, where they are of one."""

    slug: str
    title: str
    facts: str
    parts: list[Part]
    group: Group | None = None
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        """Every table of the section."""
        return [table for part in self.parts for table in part.tables]


Call = tuple[str, tuple[Any, ...]]  # a method's name and its arguments
GEOMETRY = ("spectral_decay", "intra_over_inter")


@dataclass(frozen=True)
class Material:
    """What sections are built from.

    `figures` is an existing folder for PNG, SVG and CSV files; without `panels` no images are shown; `measurements` are
    those of `dmlbench overhead`; `codes` are the digests of the training code that made the results;
    `claims` are what was declared, and tested; `finalists` are the rows of `studies.read_finalists`.
    """

    numbers: Numbers
    queries: Queries
    figures: Path
    panels: Panels | None = None
    measurements: tuple[Measurement, ...] = ()
    codes: frozenset[str] = frozenset()
    against: Against = DEFAULT
    claims: tuple[Judged, ...] = ()
    finalists: pd.DataFrame = field(default_factory=no_finalists)

    @cached_property
    def variances(self) -> pd.DataFrame:
        """Standard deviations by source: see `variance.variances`."""
        numbers, chosen = self.numbers, self.finalists[self.finalists["chosen"].astype(bool)]
        return named(variances(numbers.seeds, numbers.comparisons, self.queries.over_classes, chosen))

    @cached_property
    def look(self) -> Look:
        """Colours and signs for every method of the report."""
        return Look.of(pd.concat([self.numbers.results[METHOD], measured_frame(self.measurements)[METHOD]]))

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The ratio of every method's step time to its reference's, by the best evidence there is."""
        return with_interleaved(self.numbers.overhead, self.measurements, self.numbers.results)

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
        tell: Takes a line for every group.
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
        self.look, numbers = material.look, material.numbers.of_group(group)  # what of them another process is sent
        self.group, self.numbers, self.material = group, numbers, replace(material, numbers=numbers)
        self._drawn = self.material.drawn
        self.means = _of_metric(group, numbers.accuracy)
        self.trained = self.means[self.means["selection"] != UNTRAINED]
        self.values = _of_metric(group, numbers.seeds)
        self.compared = primary(_of_metric(group, numbers.comparisons))
        self.shown = _shown(self.compared, material.against)
        self.pairs = primary(_of_metric(group, numbers.pairs))
        self.selections = selections_of(group.of(numbers.accuracy))
        self.chosen = verdict_selection(self.selections)

    def calls(self) -> list[Call]:
        """What builds the section's parts, in their order."""
        others = [name for name in self.selections if name != self.chosen]
        rest = ("_tuning", "_selection", "_cost", "_curves", "_geometry", "_by_query")
        accuracies: list[Call] = [("_accuracy", (name, name != self.chosen)) for name in (self.chosen, *others)]
        return accuracies + [(name, ()) for name in rest]

    def section(self, facts: str, parts: list[Part]) -> Section:
        found = self.compared[self.compared["selection"] == self.chosen]
        return Section(
            self.group.slug,
            self.group.title,
            " ".join([facts, *about_pairs(self.group.of(self.numbers.seeds), self.material.against)]),
            [part for part in parts if part.pictures or part.tables],
            self.group,
            verdicts(self.group, found, self.material.steps),
        )

    def _accuracy(self, selection: str, folded: bool) -> Part:
        """Accuracy and differences under one choice of the epoch."""
        numbers, group = self.numbers, self.group
        heading = "Accuracy"
        tables = [accuracy_table(group, selection, numbers.accuracy)]
        if folded:  # that of the verdicts' selection begins the report
            tables.insert(0, leaderboard_table(group, selection, numbers.leaderboard))
        # How accuracy depends on the choice is a figure of its own; its table has the gain under each.
        plots = [] if folded else [self._accuracy_plot(selection), self._difference_plot(selection)]
        if len(self.compared):
            heading = "Accuracy and differences"
            evidence = evidence_table(group, selection, METRIC, numbers.comparisons)
            tables += [evidence] if evidence.rows else []
            differences = difference_table(group, selection, primary(numbers.comparisons), numbers.accuracy)
            tables += [differences] if differences.rows else []
        # Below the differences, too, but there may be none.
        alone = "" if len(self.compared) else " ".join(without_base(self.trained, self.compared))
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
        shown = self.shown[self.shown["selection"] == selection]
        if shown.empty:
            return None
        dots = self.pairs[self.pairs["name"].isin(set(shown["name"]))]
        limits = limits_of(self.shown, dots["value"] - dots["value_to"], include=[0.0])
        dots = dots[dots["selection"] == selection]
        return difference_plot(self.group, selection, shown, dots, look=self.look, limits=limits)

    def _tuning(self) -> Part:
        found = _of_metric(self.group, self.numbers.tuning)
        found = found[found["selection"] == self.chosen]
        finalists = self.group.of(self.material.finalists)
        tables = [tuning_table(self.group, found)] if len(found) else []
        tables += [studies_table(self.group, finalists)] if len(finalists) else []
        plots = [trace_plot(self.group, finalists, self.look)] if finalists["held_out"].notna().any() else []
        return Part("Tuned values beside the files'", self._drawn(*plots), tables)

    def _selection(self) -> Part:
        numbers, group = self.numbers, self.group
        added = _of_metric(group, numbers.optimism)
        if added.empty:
            return Part("")
        both = self.values[self.values["selection"].isin(["last", "best_test"])]
        plots = [selection_plot(group, self.trained, self.look), optimism_plot(group, added, both, self.look)]
        table = selection_table(group, METRIC, numbers.accuracy, primary(numbers.comparisons), numbers.optimism)
        text = (
            "Published figures are usually those of the best epoch on the test classes. What that choice adds is no "
            "property of a method, and it is not the same for all."
        )
        return Part("How the epoch was chosen", self._drawn(*plots), [table], text)

    def _interleaved(self) -> set[str]:
        """The methods whose step time was measured interleaved."""
        return set(self.material.steps.loc[self.material.steps["interleaved"], "name"])

    def _cost(self) -> Part:
        ratios, phases = self.group.of(self.numbers.overhead), self.group.of(self.numbers.phases)
        measured, plots = ratios[ratios["n"] > 0], []
        gains = self.shown[self.shown["selection"] == self.chosen]
        # A figure of what was measured interleaved is in the cost of a step: noise beside it would be read as fact.
        drawn = _shown(measured[~measured["name"].isin(self._interleaved())], self.material.against)
        if len(drawn):
            plots.append(overhead_plot(self.group, drawn, self.look))
        if len(phases):
            plots.append(phases_plot(self.group, phases))
        steps = self.material.steps[self.material.steps["n"] > 0]
        if set(steps["name"]) & set(gains["name"]):
            plots.append(plane_plot(self.group, self.chosen, gains, steps, self.look))
        tables = [overhead_table(self.group, self.numbers.overhead)] if len(ratios) else []
        timed = (self.trained["modifier"] != "") & self.trained["network"].isin([MEAN, ENSEMBLE])
        without = [name for name in self.trained.loc[timed, "name"].unique() if name not in set(measured["name"])]
        why = "no step times of it and its reference of the same seed, machine and load"
        text = f"No time ratio for {', '.join(without)}: {why} (cells that sampled system metrics have none)."
        return Part("Training time", self._drawn(*plots), tables, text if without else "")

    def _curves(self) -> Part:
        column, mine = f"test/{METRIC}", self.group.of(self.numbers.history)
        mine = mine.dropna(subset=[column]) if column in mine else mine.iloc[:0]
        if mine.empty:
            return Part("")
        plots: list[Plot | None] = [curve_plot(self.group, mine, self.look, METRIC)]
        pairs = paired(mine, ["epoch"], [column], self.material.against)
        pairs = _shown(pairs.rename(columns={column: "value", f"{column}_to": "value_to"}), self.material.against)
        plots += [gain_curve_plot(self.group, named(pairs), self.look, METRIC)] if len(pairs) else []
        return Part("Learning curves", self._drawn(*plots))

    def _geometry(self) -> Part:
        measured, cells = (self.group.of(frame) for frame in (self.numbers.seeds, self.numbers.results))
        plots: list[Plot | None] = []
        if {*GEOMETRY, METRIC} <= set(measured.loc[measured["selection"] == "last", "metric"]):
            plots.append(geometry_plot(self.group, measured, self.look))
        if not self.material.queries.measured.keys().isdisjoint(cells["folder"]):
            plots.append(embedding_plot(self.group, cells, self.material.queries.measured, self.look))
        plots += self.material.queries.map(self.group)
        return Part("Embedding geometry", self._drawn(*plots))

    def _by_query(self) -> Part:
        queries = self.material.queries
        plots, evidence = queries.plots(self.group, self.look, self.material.panels), self.group.of(queries.evidence)
        tables = [queries_table(self.group, queries.evidence)] if len(evidence) else []
        return Part("Query by query", self._drawn(*plots), tables)


def _built(call: tuple[_Group, str, tuple[Any, ...]]) -> Part:
    """A part of a section; in a process of its own, for all of it can be sent."""
    own, name, arguments = call
    part: Part = getattr(own, name)(*arguments)
    return part


def leaderboards(numbers: Numbers, over_classes: pd.DataFrame | None = None) -> list[Table]:
    """Every group's leaderboard, under the choice of the epoch that verdicts are given by.

    Args:
        numbers: Of the report.
        over_classes: Rows of `variance.over_test_classes`.
    """
    found = []
    for group in groups(numbers.leaderboard):
        chosen = verdict_selection(selections_of(group.of(numbers.leaderboard)))
        found.append(leaderboard_table(group, chosen, numbers.leaderboard, over_classes))
    return found


def variance_tables(material: Material) -> list[Table]:
    """Sources of variance, in every group where one was varied alone."""
    return [variance_table(group, material.variances) for group in groups(material.variances)]


def _shown(compared: pd.DataFrame, against: Against) -> pd.DataFrame:
    """What figures show of the comparisons with a reference: bases only where there is nothing else, or one is named.

    Bases lie far apart: their differences would press those of modified methods together.
    """
    modified = compared[compared["modifier"] != ""]
    return compared if against.method or modified.empty else modified


def _of_metric(group: Group, frame: pd.DataFrame) -> pd.DataFrame:
    mine = group.of(frame)
    return mine[mine["metric"] == METRIC]


KEYS = ["protocol", "overrides"]


def protocol_sections(material: Material) -> list[Section]:
    """A section for every protocol, with its settings, that has results of several datasets."""
    numbers = material.numbers
    datasets: dict[tuple[str, Settings], set[str]] = {}
    for group in groups(numbers.accuracy):
        datasets.setdefault((group.protocol, group.overrides), set()).add(group.dataset)
    return [_protocol_section(material, *key) for key, own in datasets.items() if len(own) > 1]


def reproduction_section(numbers: Numbers) -> list[Section]:
    """Published figures beside ours, for the methods and datasets of the report."""
    if numbers.results.empty:
        return []
    if numbers.reproduction.empty:
        facts = "The method files hold no published figure for these methods on these datasets."
        return [Section("reproduction", "Published and reproduced", facts, [])]
    facts = (
        "Figures that papers report for a method and dataset of this report. They are compared where the protocol is "
        "the same; published figures are usually those of the best test epoch, so ours are, too."
    )
    return [
        Section(
            "reproduction",
            "Published and reproduced",
            facts,
            [Part("", [], [reproduction_table(numbers.reproduction)])],
        )
    ]


def _protocol_section(material: Material, protocol: str, overrides: Settings) -> Section:
    numbers = material.numbers
    title = protocol + (f", {without_paths(str(overrides))}" if overrides else "")
    name = "_".join(slug(part) for part in (protocol, str(overrides)) if part)

    def mine(frame: pd.DataFrame) -> pd.DataFrame:
        own = frame[(frame["protocol"] == protocol) & (frame["overrides"] == overrides) & (frame["metric"] == METRIC)]
        return own[own["selection"] == chosen]

    own = numbers.accuracy[(numbers.accuracy["protocol"] == protocol) & (numbers.accuracy["overrides"] == overrides)]
    chosen = verdict_selection(selections_of(own))
    pooled, means = mine(numbers.pooled), mine(numbers.over_datasets)
    methods = list(in_order(own[own["name"] != UNTRAINED].drop_duplicates("name"))["name"])
    parts = []
    if len(pooled):
        against, each = (
            _shown(primary(own), material.against) for own in (pooled[pooled["n"] > 0], mine(numbers.comparisons))
        )
        plots = [forest_plot(title, name, each, against, material.look)] if len(against) else []
        parts.append(Part("Difference to the base", material.drawn(*plots), [pooled_table(title, name, pooled)]))
    if len(means):
        ranks = [ranks_plot(title, name, means, material.look)] if can_rank(means) else []
        parts.append(Part("All methods", material.drawn(*ranks), [over_datasets_table(title, name, means, methods)]))
    datasets = sorted(own["dataset"].unique())
    return Section(f"over-{name}", f"{title} over {len(datasets)} datasets", f"{', '.join(datasets)}.", parts)


def cost_sections(material: Material) -> list[Section]:
    """The latest measurement of the same methods with the same setup, beside what earlier ones say."""
    latest = [own[-1] for own in by_setup(material.measurements)]
    return [_section(material, own, _told_from(own, latest)) for own in latest]


def _told_from(measurement: Measurement, others: Sequence[Measurement]) -> str:
    """What tells a measurement from others of its title, as ` (44 methods)`: its time, where nothing else does."""
    alike = [_setup(own) for own in others if own.title == measurement.title]
    differs = [len(set(facts)) > 1 for facts in zip(*alike, strict=True)]
    told = [*itertools.compress(_setup(measurement), differs)]
    if alike.count(_setup(measurement)) > 1:
        told.append(f"of {measurement.started[:19].replace('T', ' ')}")
    return f" ({', '.join(told)})" if told else ""


def _setup(measurement: Measurement) -> tuple[str, str, str]:
    environment, methods = measurement.environment, counted(len(measurement.methods), "method")
    return f"machine {environment.machine}", f"protocol {measurement.protocol_hash[:6]}", methods


def _section(material: Material, latest: Measurement, which: str) -> Section:
    setup = Setup(without_paths(latest.title) + which, measurement_slug(latest))
    costs, phases = named(measured_overhead(latest, material.against)), named(measured_phases(latest))
    modified = _shown(costs[costs["to_name"] != costs["name"]], material.against)
    clock = turns(latest.processes)
    plots = [overhead_plot(setup, modified, material.look, clock)] if len(modified) else []
    found = agreements(material.measurements[: material.measurements.index(latest)], latest)
    images = "random pixels" if latest.dataset == SYNTHETIC else f"images of {latest.dataset}"
    known = {"torch": latest.environment.torch, "cuda": latest.environment.cuda}
    libraries = ", ".join(f"{name} {version}" for name, version in known.items() if version is not None)
    threads = counted(latest.cpu_threads, "CPU thread")
    facts = (
        f"Measured on {latest.started[:10]} on {images}; {latest.environment.system or ''}, {threads}, "
        f"{libraries}; dmlbench {code_state(latest.code, latest.environment)}. Command: {for_readers(latest.command)}"
    )
    pictures = material.drawn(*plots, phases_plot(setup, phases, clock))
    notes = [*doubts(latest), *_other_code(latest, material.codes)]
    table = measured_table(setup.title, setup.slug, latest, costs, found=found, notes=notes)
    return Section(setup.slug, f"Cost of a step: {setup.title}", facts, [Part("", pictures, [table])])


def _other_code(latest: Measurement, codes: Collection[str]) -> list[str]:
    """A warning where no result of the report was made by the training code that was measured."""
    if not codes or latest.code.digest in codes:
        return []
    return [f"The results of this report were made by other training code: {', '.join(sorted(codes))}."]
