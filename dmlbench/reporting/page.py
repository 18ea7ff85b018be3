"""Renders a results folder into `reports/<name>/`: a page, Markdown, tables and figures.

What every report says of itself, in HTML and Markdown alike.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from dmlbench.analysis.claims import Judged, claims_frame, judge
from dmlbench.analysis.comparisons import primary
from dmlbench.analysis.costs import measured_frame
from dmlbench.analysis.groups import (
    GROUP,
    METHOD,
    MODIFIERS,
    Against,
    base_name,
    check_unambiguous,
    done,
    modifier_name,
    rank,
    without_paths,
)
from dmlbench.errors import Damaged, OnDamaged, UserError, counted, unknown_name, warn
from dmlbench.reporting import sources
from dmlbench.reporting.content import (
    Material,
    Part,
    Section,
    cost_sections,
    group_sections,
    leaderboards,
    protocol_sections,
    reproduction_section,
    variance_tables,
)
from dmlbench.reporting.dictionary import FILES, dictionary
from dmlbench.reporting.figures import gain_plot
from dmlbench.reporting.folder import PAGE, check_target, replacing
from dmlbench.reporting.latex import Choice, chosen, latex
from dmlbench.reporting.naming import for_files, named, plain_names, table_metrics
from dmlbench.reporting.numbers import Numbers
from dmlbench.reporting.opening import Opening, opening
from dmlbench.reporting.pictures import Picture, brief_marks, csv, escape_markdown, inert, markdown, short
from dmlbench.reporting.processes import Map, mapping
from dmlbench.reporting.queries import Panels, Queries
from dmlbench.reporting.reading import READING, READING_COSTS
from dmlbench.reporting.sources import commands
from dmlbench.reporting.studies import read_finalists
from dmlbench.reporting.style import PALETTE
from dmlbench.reporting.tables.claims import claim_tables
from dmlbench.reporting.tables.summary import (
    coverage_table,
    is_uneven,
    protocol_tables,
    settings_tables,
    summary_tables,
)
from dmlbench.reporting.tables.table import TEXT_COLUMNS, Table
from dmlbench.results.claims import after_the_fact, check_names, declared_claims
from dmlbench.results.environment import versions
from dmlbench.results.evaluated import STATUS as EVALUATED
from dmlbench.results.frames import PLAIN_STRINGS, load_history, load_results
from dmlbench.results.measurements import SYNTHETIC, Measurement, read_measurements
from dmlbench.results.records import FILTERS, Summary
from dmlbench.results.store import Roots, read_summary
from dmlbench.specs.study import Claim

Only = Mapping[str, Collection[str]]
DICTIONARY = "dictionary.csv"
WHOLE = Choice()
FEW = 40  # cells up to which one process draws a report sooner than several have started
PRIVATE = "# This report shows images that may not be shown to everyone, so git leaves it out.\n*\n"


@pd.option_context(*PLAIN_STRINGS)
def render(
    results_folders: Path | Sequence[Path] | Roots,
    name: str,
    output: Path = Path("reports"),
    only: Only | None = None,
    *,
    panels: Panels | None = None,
    tell: Callable[[str], None] = lambda _: None,
    damaged: OnDamaged = warn,
    workers: int = 1,
    against: str = "",
    claims: Sequence[Claim] = (),
    tables: Choice = WHOLE,
) -> Path:
    """Render a report; an earlier one of that name is replaced when the new one is complete.

    Args:
        results_folders: The folder given to `dmlbench run --results`, or several that are read as one.
        name: Name of the report's folder below `output`.
        output: Where reports go.
        only: Names to keep, by `protocol`, `dataset` or `method`; a column that is not given keeps all.
        panels: Which images are shown, of cells that kept their embeddings; None for none.
        tell: Takes a line for each stage.
        damaged: Takes what cannot be read and is left out; the report names it, too [default: a warning for each].
        workers: Processes that draw, where there are several groups of results.
        against: The method that all others are compared with, by its name in tables [default: a modified method's
            base, and for a base the first one].
        claims: What to test beside the claims that were declared with the runs: these are after the fact.
        tables: The methods and metrics of LaTeX tables.

    Returns:
        The report's folder, with index.html, report.md, tables/ and figures/.

    Raises:
        UserError: where there is nothing to report, results contradict each other, or the folder cannot be written.
    """
    target = check_target(output, name)
    roots = Roots.of(results_folders)
    left_out = _LeftOut(roots, damaged)
    results, history, specs, costs, every, given = _read(roots, only, left_out)
    tell(f"{counted(results['folder'].nunique(), 'cell')} read")
    tuned = sources.read_studies(roots.paths, left_out)
    with mapping(workers if done(results)["folder"].nunique() > FEW else 1) as each:
        margins, other = sources.tuning_margins(tuned, results, specs), Against(against)
        numbers = Numbers.of(results, history, sources.other_images(results, specs), margins, other,
                             evaluated=given)  # fmt: skip
        tables.check(set(numbers.leaderboard["name"]), table_metrics(numbers.accuracy["metric"]))
        queries = Queries.of(results, tell, left_out, other)
        queries.check_images(panels)
        with replacing(target) as folder:
            for part in ("figures", "tables"):
                (folder / part).mkdir()
            summaries, tested = _summaries(results), _judged(roots, (results, every), claims, left_out)
            material = Material(numbers, queries, folder / "figures", panels, costs, sources.code_digests(summaries),
                other, tested, read_finalists(tuned, results, specs))  # fmt: skip
            body, origin = _body(material, specs, tell, each), _origin(name, results, summaries, given)
            csvs = _write_csv(folder / "tables", _tidy(material, specs, roots))
            written = {"files": csvs, "in_latex": _write_latex(folder, body, tables)}
            _write_pages(folder, origin, body, _gaps(results, roots, only, left_out), written)
            if queries.shows_private_images(panels):
                (folder / ".gitignore").write_text(PRIVATE, encoding="utf-8")
    return target


def _judged(
    roots: Roots, shown: tuple[pd.DataFrame, pd.DataFrame], claims: Sequence[Claim], left_out: "_LeftOut"
) -> tuple[Judged, ...]:
    """The claims of the results folder of which the report has cells, and those that are made now.

    `shown` is what the report has, and all there is: a declared claim is of all its cells, whatever a report shows.
    """
    results, every = shown
    hashes = set(results["hash"])
    declared = [own for own in declared_claims(roots.paths, left_out) if not hashes.isdisjoint(own.cells)]
    declared.sort(key=lambda own: (own.declared, rank(own.claim.modifier, MODIFIERS)))  # of one study as everywhere
    for claim in claims:
        check_names(claim, sorted(set(every["base"])), sorted({*every["modifier"]} - {""}))
    declared += [after_the_fact(claim, results) for claim in claims]
    return tuple(judge(own, every) for own in declared)


def _read(
    roots: Roots, only: Only | None, left_out: "_LeftOut"
) -> tuple[pd.DataFrame, pd.DataFrame, sources.Specs, tuple[Measurement, ...], pd.DataFrame, pd.DataFrame]:
    """Results, their histories, specs and measurements: of the sound ones those asked for; and all results.

    Last come the rows of what was not trained here, which none of the others has.
    """
    every, measurements = load_results(roots, left_out), read_measurements(roots.paths, left_out)
    _check_any(every, measurements, left_out)
    results = _kept(every, only, also=measured_frame(measurements))
    every, results, evaluated = every[every["status"] != EVALUATED], *_apart(results, left_out)
    costs = _kept_measurements(measurements, only, set(results["protocol"]))
    history, specs = load_history(roots, left_out), sources.read_specs(results, left_out)
    results = results[~results["folder"].isin(left_out.paths)]
    if evaluated.empty:
        _check_any(results, costs, left_out)
    sources.check_one_spec(results, specs)  # first: it can say what differs
    check_unambiguous(results)
    return results, history, specs, costs, every, evaluated


def _apart(results: pd.DataFrame, left_out: "_LeftOut") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results of cells, and what was not trained here, but for what could not be in one table with the cells.

    Without cells the images of the first row count.
    """
    is_evaluated = results["status"] == EVALUATED
    cells, evaluated = results[~is_evaluated], results[is_evaluated]
    trained = named(done(cells))
    names = set(trained[[*GROUP, "name"]].itertuples(index=False, name=None))
    versions_of = {key: set(own["dataset_version"]) for key, own in trained.groupby(GROUP, sort=False)}
    others = dict.fromkeys(versions_of, "the cells here")
    kept = []
    for row in evaluated.to_dict("records"):
        key, path = tuple(row[column] for column in GROUP), row["folder"]
        why = ""
        if (*key, row["method"]) in names:
            why = "has the name of a method that was trained here; rename it"
        elif row["dataset_version"] not in versions_of.setdefault(key, {row["dataset_version"]}):
            why = f"is of other images of {row['dataset']} than {others[key]}"
        if why:
            left_out(Damaged(Path(path), f"{path}: {why}"))
        others.setdefault(key, f"the row {row['method']}, which counts: it comes first")
        kept.append(not why)
    return cells, evaluated[np.array(kept, dtype=bool)]


class _LeftOut:
    """Collects what cannot be read, each path once, and passes it on."""

    def __init__(self, roots: Roots, tell: OnDamaged) -> None:
        self.roots, self._tell = roots, tell
        self._found: dict[Path, Damaged] = {}

    def __call__(self, found: Damaged) -> None:
        if found.path not in self._found:
            self._found[found.path] = found
            self._tell(found)

    @property
    def paths(self) -> set[str]:
        """The folders of the cells among it, and files of measurements."""
        return set(map(str, self._found))

    def in_words(self) -> list[sources.Missing]:
        """For the report: by the path in the results folder."""
        found = {self.roots.label(path): found.reason for path, found in self._found.items()}
        return [sources.Missing(path, _of_reader(reason, self.roots)) for path, reason in sorted(found.items())]


def _check_any(results: pd.DataFrame, measurements: Sequence[Measurement], left_out: _LeftOut) -> None:
    if results.empty and not measurements:
        hint = "what is there cannot be read" if left_out.paths else left_out.roots.stores[0].next_command()
        raise UserError(f"{left_out.roots.title}: no finished results", hint=hint)


def _of_reader(reason: str, roots: Roots) -> str:
    for root, name in roots.names.items():
        reason = reason.replace(f"{root}/", "" if len(roots.paths) == 1 else f"{name}/")
    return without_paths(reason)


def _kept(
    frame: pd.DataFrame, only: Only | None, *, also: pd.DataFrame | None = None, known: bool = False
) -> pd.DataFrame:
    """The rows asked for; `also` holds further names that are no mistake, `known` says that they were checked."""
    shown = frame.assign(method=plain_names(frame))
    for column, names in (only or {}).items():
        if column not in FILTERS:
            raise unknown_name("column", column, FILTERS, where="--only")
        there = {*shown[column], *(also[column] if also is not None else ())}
        if unknown := [] if known else sorted(set(names) - there):
            raise unknown_name(column, unknown[0], sorted(there), where="--only")
    for column, names in (only or {}).items():
        shown = shown[shown[column].isin(list(names))]
    return frame.loc[shown.index]


def _kept_measurements(
    measurements: Sequence[Measurement], only: Only | None, protocols: Collection[str]
) -> tuple[Measurement, ...]:
    """Those of the protocols and datasets asked for, with the methods asked for and their bases.

    Synthetic images stand for those of every dataset, where datasets are asked for: under the protocols of their
    results, where there are any.
    """
    wanted = dict(only or {})

    def is_wanted(column: str, name: str) -> bool:
        return column not in wanted or name in wanted[column]

    kept = []
    for measurement in measurements:
        synthetic = "dataset" not in wanted or not protocols or measurement.protocol in protocols
        images = synthetic if measurement.dataset == SYNTHETIC else is_wanted("dataset", measurement.dataset)
        if images and is_wanted("protocol", measurement.protocol):
            named = {name for name in measurement.methods if is_wanted("method", name)}
            bases = {measurement.methods[name].base for name in named}
            methods = {name: method for name, method in measurement.methods.items() if name in named | bases}
            kept += [replace(measurement, methods=methods)] if methods else []
    return tuple(kept)


@dataclass(frozen=True)
class _Body:
    """All that is drawn and tabled, as the templates name it; sections are in the order of the contents."""

    opening: Opening | None
    gains: list[Picture]
    sections: list[Section]
    filters: dict[str, dict[str, str]]
    commands: list[str]
    settings: list[Table]
    protocols: list[Table]


@dataclass(frozen=True)
class _Origin:
    """What the report is of, and where its numbers come from, as the templates name it."""

    name: str
    cells: int
    methods: int
    seeds: list[int]
    days: list[str]
    reading: Sequence[str]
    environments: list[dict[str, str]]
    datasets: list[dict[str, str]]
    codes: list[str]
    version: str = field(default_factory=lambda: versions()["dmlbench"])
    palette: Sequence[str] = PALETTE
    text_columns: Collection[str] = frozenset(TEXT_COLUMNS)


@dataclass(frozen=True)
class _Gaps:
    """What failed, what was planned and has no result, what cannot be read, and whether the matrix is whole."""

    failed: list[sources.Missing]
    unfinished: list[sources.Missing]
    damaged: list[sources.Missing]
    coverage: Table
    incomplete: bool


def _body(material: Material, specs: sources.Specs, tell: Callable[[str], None], each: Map) -> _Body:
    results, numbers = material.numbers.results, material.numbers
    facts = partial(sources.group_facts, results=results, specs=specs)
    built = group_sections(material, facts, tell, each)
    verdicts = {section.group: section.verdicts for section in built if section.group}
    first = opening(numbers, material.claims, material.against, material.steps)
    sections = [
        _tables("claims", "Declared claims", claim_tables(material.claims)),
        _tables("differences", "Differences to the reference", summary_tables(verdicts, primary(numbers.pooled))),
        _tables("leaderboards", "Leaderboards", leaderboards(numbers, material.queries.over_classes)),
        protocol_sections(material),
        built,
        cost_sections(material),
        _tables("variance", "Sources of variance", variance_tables(material)),
        reproduction_section(numbers),
    ]
    return _Body(
        opening=first,
        gains=material.drawn(gain_plot(first.gains)) if first and first.gains else [],
        sections=[section for several in sections for section in several],
        filters=_filters(numbers),
        commands=commands(results, specs, material.queries.measured),
        settings=settings_tables(sources.settings(results, specs)),
        protocols=protocol_tables(sources.protocol_values(results, specs)),
    )


def _tables(slug: str, title: str, tables: list[Table]) -> list[Section]:
    return [Section(slug, title, "", [Part("", [], tables)])] if tables else []


def _filters(numbers: Numbers) -> dict[str, dict[str, str]]:
    """What a reader may filter rows by: base, modifier and values of every method, by its name."""
    rows = numbers.leaderboard.drop_duplicates("name").to_dict("records")
    return {
        str(row["name"]): {
            "base": base_name(row, tuned=False),
            "modifier": modifier_name(row, tuned=False) or "none",
            "values": "tuned" if row["tuned"] else "files' values",
        }
        for row in rows
    }


def _tidy(material: Material, specs: sources.Specs, roots: Roots) -> dict[str, pd.DataFrame]:
    """Every table of numbers by the name of its file."""
    numbers, cells = material.numbers, material.numbers.results
    relative = [roots.label(Path(path)) for path in cells["folder"]]
    errors = [without_paths(error) if isinstance(error, str) else error for error in cells["error"]]
    tables = {
        "accuracy": numbers.accuracy,
        "comparisons": numbers.comparisons,
        "claims": claims_frame(material.claims),
        "pooled": numbers.pooled,
        "datasets": numbers.over_datasets,
        "leaderboard": numbers.leaderboard,
        "optimism": numbers.optimism,
        "overhead": numbers.overhead,
        "measured": named(measured_frame(material.measurements)),
        "phases": numbers.phases,
        "reproduction": numbers.reproduction,
        "tuning": numbers.tuning,
        "evaluated": numbers.evaluated.drop(columns=["folder", "seed", "hash"]).dropna(axis="columns", how="all"),
        "tuning_finalists": material.finalists,
        "variance": material.variances,
        "over_classes": material.queries.over_classes,
        "queries": material.queries.evidence,
        "query_record": named(material.queries.record),
        "settings": sources.settings(cells, specs),
        "protocols": sources.protocol_values(cells, specs),
    }
    written = {name: for_files(frame) for name, frame in tables.items()}
    return written | {"cells": for_files(cells.assign(folder=relative, error=errors), typed=True)}


def _write_latex(folder: Path, body: _Body, tables: Choice) -> set[str]:
    """Write the tables that have a chosen row; their slugs, for the page's links."""
    first = [body.opening.table] if body.opening else []
    every = (*first, *(table for section in body.sections for table in section.tables))
    found = {table.slug: chosen(table, tables) for table in every}
    written = {slug: table for slug, table in found.items() if table.rows}
    for slug, table in written.items():
        (folder / "tables" / f"{slug}.tex").write_text(latex(table), encoding="utf-8")
    return set(written)


def _write_csv(folder: Path, tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, str]]:
    """Write the tables that hold anything, and give the files that a report names."""
    written = {name: frame for name, frame in tables.items() if len(frame)}
    for name, frame in written.items():
        (folder / f"{name}.csv").write_text(csv(frame), encoding="utf-8")
    (folder / DICTIONARY).write_text(inert(dictionary(written)), encoding="utf-8")
    others = [
        (f"tables/{DICTIONARY}", "what every column of these tables holds"),
        ("report.md", "this report as Markdown"),
    ]
    return [(f"tables/{name}.csv", FILES[name]) for name in written] + others


def _summaries(results: pd.DataFrame) -> list[Summary]:
    folders = done(results)["folder"].unique()
    return [summary for path in folders if (summary := read_summary(Path(path)))]


def _origin(name: str, results: pd.DataFrame, summaries: Sequence[Summary], evaluated: pd.DataFrame) -> _Origin:
    finished = done(results).drop_duplicates("folder")
    days = sorted(summary.started[:10] for summary in summaries)
    counts = finished.groupby([*GROUP, *METHOD])["seed"].nunique()
    return _Origin(
        name=name,
        cells=len(finished),
        methods=len(finished.drop_duplicates(METHOD)),
        seeds=sorted(set(counts)),
        days=list(dict.fromkeys([days[0], days[-1]])) if days else [],
        reading=READING if len(results) or len(evaluated) else READING_COSTS,
        environments=sources.environments(summaries),
        datasets=sources.datasets(summaries),
        codes=sources.code_states(summaries),
    )


def _gaps(results: pd.DataFrame, roots: Roots, only: Only | None, left_out: "_LeftOut") -> _Gaps:
    begun = _kept(sources.unfinished(roots, left_out), only, known=True)
    coverage = coverage_table(named(results), named(begun))
    failed, unfinished = sources.failed(results), sources.in_words(begun)
    return _Gaps(failed, unfinished, left_out.in_words(), coverage, is_uneven(coverage))


def _write_pages(folder: Path, origin: _Origin, body: _Body, gaps: _Gaps, written: Mapping[str, Any]) -> None:
    environment = Environment(
        loader=PackageLoader("dmlbench.reporting"),
        autoescape=select_autoescape(("html.j2",)),  # names come from users; Markdown has its own filter
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": escape_markdown, "md_table": markdown, "short": short, "brief_marks": brief_marks}
    for template, file in ("index.html.j2", PAGE), ("report.md.j2", "report.md"):
        text = environment.get_template(template).render(vars(origin) | vars(body) | vars(gaps), **written)
        (folder / file).write_text(text.rstrip() + "\n", encoding="utf-8")
