"""The tables that commands print: the comparison after a run, the cells of a results folder, and costs of a step."""

import math
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean

import pandas as pd
from rich.console import Console, RenderableType
from rich.console import Group as Parts
from rich.table import Table
from rich.text import Text

from dmlbench.analysis.claims import judge
from dmlbench.analysis.comparisons import comparisons, primary, seed_pairs
from dmlbench.analysis.costs import agreements, doubts, measured_overhead, measured_phases, overhead, phase_order
from dmlbench.analysis.estimates import SELECTIONS, accuracy, seed_values
from dmlbench.analysis.groups import (
    DEFAULT,
    Against,
    Group,
    check_against,
    check_unambiguous,
    groups,
    in_order,
    method_name,
)
from dmlbench.analysis.statistics import EFFECT, FEWEST, detectable, seeds_needed
from dmlbench.errors import Damaged, counted, inflected
from dmlbench.reporting.naming import named, percent, plain, points
from dmlbench.reporting.tables.claims import claim_tables
from dmlbench.reporting.tables.comparison import power
from dmlbench.reporting.tables.table import about_pairs, few_seeds, mark_signs, other_machines, signed, without_base
from dmlbench.results.claims import declared_claims
from dmlbench.results.frames import MEAN, UNTRAINED, load_results
from dmlbench.results.measurements import Measurement
from dmlbench.results.records import Facts
from dmlbench.results.status import STATES, CellState
from dmlbench.results.store import Record, Store
from dmlbench.runner.progress import SafeConsole
from dmlbench.specs.cell import Cell

SPREAD = 0.013  # of paired differences in R@1 on omniglot-small, where nothing else is known
COLUMNS = ("method", "R@1", "n", "against", "difference", "verdict", "MAP@R", "time")


def comparison(results: pd.DataFrame, selection: str = "last", against: Against = DEFAULT) -> list[RenderableType]:
    """Tables of R@1 with its interval, the difference to the reference with its verdict, MAP@R and the time's ratio.

    Args:
        results: As `load_results` returns them, or part of it.
        selection: How the epoch was chosen, a key of `SELECTIONS`.
        against: What the reference is.

    Returns:
        What a rich console prints: for every group a table and how to read it. Empty where no cell finished.

    Raises:
        UserError: where results that may not be mixed would be.
    """
    check_unambiguous(results)
    check_against(results, against)
    values = named(seed_values(results))
    values = values[values["selection"].isin([UNTRAINED, selection])]
    compared = primary(comparisons(seed_pairs(values, against), values))
    means, paired, times = map(named, (accuracy(values), compared, overhead(results, against)))
    return [
        part
        for group in groups(values)
        for part in _group(
            group,
            selection,
            *(group.of(frame) for frame in (means, paired, times)),
            unpaired=about_pairs(group.of(values), against),
        )
    ]


def _group(
    group: Group,
    selection: str,
    means: pd.DataFrame,
    paired: pd.DataFrame,
    times: pd.DataFrame,
    *,
    unpaired: list[str],
) -> list[RenderableType]:
    # Titles and names are Text, not markup: a name in square brackets is a name.
    title = Text(f"{group.title}: {SELECTIONS[selection]}", style="bold")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in COLUMNS:
        words = column in ("method", "against", "verdict")
        table.add_column(column, justify="left" if words else "right", no_wrap=column == "method")
    signs = mark_signs(means["marks"])
    for method in in_order(means.drop_duplicates("name")).to_dict("records"):
        own = [frame[frame["name"] == method["name"]] for frame in (means, paired, times)]
        table.add_row(*map(Text, _cells(method["name"], signed(method["marks"], signs), *own)))
    notes = [
        f"{SELECTIONS[selection].capitalize()}. R@1 and MAP@R in %; n: seeds; [low, high]: 95% t-interval over seeds.",
        "difference: R@1 minus that of the method it is compared with, paired by seed, in points.",
        f"verdict: exploratory (paired t-test; equivalent within 1 point; Benjamini and Hochberg{_family(paired)}).",
    ]
    notes += power(paired[paired["metric"] == "recall_at_1"])
    notes += (
        ["time: step time over the other's, in ordinary runs that may have shared the machine."] if len(times) else []
    )
    notes += [f"{sign}: {mark}." for mark, sign in signs.items()]
    notes += [*few_seeds(means[means["name"] != UNTRAINED]), *without_base(means, paired)]
    notes += [*unpaired, *other_machines(times)]
    return [table, Text("\n".join(notes), style="dim"), Text("")]


def _family(paired: pd.DataFrame) -> str:
    """Modifiers of one base are compared with each other, too: a report shows it."""
    tested = paired.loc[paired["metric"] == "recall_at_1", "family"]
    return f" over {counted(int(tested.max()), 'comparison')}" if len(tested) and tested.max() else ""


def _cells(method: str, letters: str, means: pd.DataFrame, paired: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    recall = means[means["metric"] == "recall_at_1"]
    precision = means[means["metric"] == "map_at_r"]
    seeds = int(recall["n"].max()) if len(recall) else 0
    differs = paired[paired["metric"] == "recall_at_1"]
    slower = times.loc[times["n"] > 0, "mean"]
    return [
        f"{method} ({letters})" if letters else method,
        _estimate(recall, percent, seeds),
        str(seeds) if seeds else "–",
        "".join(differs["to_name"]),
        _estimate(differs, points, seeds),
        "".join(differs["verdict"]),
        f"{percent(precision['mean'].iloc[0])}{_other_n(precision, seeds)}" if len(precision) else "–",
        f"{plain(slower.iloc[0])}×" if len(slower) else "",
    ]


def _other_n(rows: pd.DataFrame, seeds: int) -> str:
    n = int(rows["n"].iloc[0])
    return f" n={n}" if n != seeds else ""


def _estimate(rows: pd.DataFrame, write: Callable[[float], str], seeds: int) -> str:
    if rows.empty:
        return ""
    row = rows.iloc[0]
    # No space inside: on a narrow terminal the interval goes to the next line whole.
    interval = f" [{write(row['low'])},{write(row['high'])}]" if row["n"] > 1 else ""
    return write(row["mean"]) + interval + _other_n(rows, seeds)


def print_comparison(console: SafeConsole, store: Store, cells: Sequence[Cell], against: Against = DEFAULT) -> None:
    """Print the comparison of the methods, as far as there are results."""
    if not any(isinstance(record := store.record(cell), Record) and record.done for cell in cells):
        return
    results = load_results(store.root, lambda _: None)  # `print_unfinished` names what is damaged
    hashes = {cell.hash for cell in cells}
    for part in comparison(results[results["hash"].isin(hashes)], against=against):
        console.print(part)


def print_claims(console: SafeConsole, store: Store, cells: Sequence[Cell]) -> None:
    """Print what the results say of every claim that was declared with these cells."""
    hashes = {cell.hash for cell in cells}
    declared = [own for own in declared_claims([store.root], lambda _: None) if not hashes.isdisjoint(own.cells)]
    if not declared:
        return
    results = load_results(store.root, lambda _: None)
    for found in claim_tables([judge(own, results) for own in declared]):
        table = Table(*found.columns, title=Text(found.title, style="bold"), title_justify="left", box=None)
        for row in found.rows:
            table.add_row(*(Text(" ".join(filter(None, (own.text, own.interval)))) for own in row))
        console.print(table)
        console.print(Text("\n".join(found.notes), style="dim"))
        console.print("")


def print_power(console: SafeConsole, store: Store, cells: Sequence[Cell]) -> None:
    """Say what effect the seeds of a run can show, by the spread of past differences or else a stated one."""
    seeds = max(Counter((cell.method.name, cell.dataset.name, cell.overrides) for cell in cells).values(), default=0)
    if seeds < FEWEST:
        console.print(f"power: fewer than {FEWEST} seeds, so nothing can be concluded")
        return
    spread, source = _past_spread(store, cells)
    difference = f"a true difference of {100 * detectable(spread, seeds):.1f} points"
    needed = f"1 point needs {seeds_needed(spread, EFFECT)} seeds"
    from_ = f"standard deviation of paired differences in R@1: {100 * spread:.2f} points, {source}"
    console.say(f"power: with {seeds} seeds {difference} is found in 80% of studies; {needed} ({from_})")


def _past_spread(store: Store, cells: Sequence[Cell]) -> tuple[float, str]:
    """The median standard deviation of past paired differences in R@1 of these groups, and where it is from."""
    wanted = {(cell.protocol.name, cell.dataset.label) for cell in cells}
    results = load_results(store.root, lambda _: None) if store.root.is_dir() else pd.DataFrame()
    if len(results):
        values = seed_values(results)
        values = values[(values["metric"] == "recall_at_1") & (values["selection"] == "last")]
        past = comparisons(primary(seed_pairs(values)), values)
        own = [place in wanted for place in zip(past["protocol"], past["dataset"], strict=True)]
        stds = past.loc[own].loc[lambda rows: (rows["n"] >= FEWEST) & (rows["std"] > 0), "std"]
        if len(stds):
            return float(stds.median()), f"median of {counted(len(stds), 'past comparison')}"
    return SPREAD, "that of omniglot-small; no past comparisons here"


def print_unfinished(console: SafeConsole, store: Store, cells: Sequence[Cell]) -> int:
    """List what is not done and say what would do it; the exit code."""
    states = {cell.hash: store.state(cell) for cell in cells}
    records = [(cell, store.record(cell)) for cell in cells]
    failed = [(cell, record) for cell, record in records if isinstance(record, Record) and not record.done]
    if failed:
        _print_failed(console, failed, of=len(cells))
    running = [cell for cell in cells if states[cell.hash] == "running"]
    if running:
        more = ", ..." if len(running) > 1 else ""
        of = f"{len(running)} of {counted(len(cells), 'cell')} {inflected(len(running), 'is', 'are')}"
        which = f"{of} being run by another process ({running[0].label}{more})"
        console.say(f"{which}; repeat the command when it has ended")
    open_ = sum(state in ("interrupted", "missing") for state in states.values())
    if open_:
        of = f"{open_} of {counted(len(cells), 'cell')} {inflected(open_, 'has', 'have')} not ended"
        console.print(f"{of}; rerun the same command to resume")
    damaged = print_damaged(console, store, cells)
    return 0 if all(state == "done" for state in states.values()) and not damaged else 1


def print_damaged(console: SafeConsole, store: Store, cells: Sequence[Cell]) -> int:
    """Name the results of these cells, and all others of the folder, that are left out; how many they are."""
    own = [found for cell in cells if isinstance(found := store.record(cell), Damaged)]
    own_paths = {found.path for found in own}
    damaged = [*own, *(found for found in store.damaged() if found.path not in own_paths)]
    for found in damaged:
        console.say(f"left out: {found.reason}")
    return len(damaged)


def _print_failed(console: SafeConsole, failed: Sequence[tuple[Cell, Record]], of: int) -> None:
    table = Table("failed", "seed", "why", box=None)
    for cell, record in failed:
        name = f"{cell.method.name} on {cell.dataset.name}"
        error = record.summary.error
        why = Text("\n  ".join((str(error), *error.log)) if error else "")
        table.add_row(Text(name), str(cell.seed), why)
    console.print(table)
    for _, record in failed:
        console.say(f"log: {record.folder / 'log.txt'}")
    parts = (part for cell, _ in failed for part in (cell.method.loss, cell.method.distillation))
    if any(part and part.plugin for part in parts):
        console.say("after a change of your Python file rerun the plain command: it trains what changed")
    diverged = sum(record.summary.error.kind == "diverged" if record.summary.error else 0 for _, record in failed)
    again = f" (what diverged will do so again unless a value changes: {diverged})" if diverged else ""
    them = inflected(len(failed), "it", "them")
    console.print(f"{len(failed)} of {counted(of, 'cell')} failed; to resume {them}{again}:")
    console.say(f"  {_retrying(sys.argv[1:])}")


def _retrying(arguments: Sequence[str]) -> str:
    """The command line that was typed, with `--retry failed`."""
    again = [] if "--retry" in arguments else ["--retry", "failed"]
    return shlex.join(["dmlbench", *arguments, *again])


MOST_SEEDS = 12  # that fit beside each other
STYLES = {
    "running": "cyan",
    "queued": "cyan",
    "failed": "red",
    "damaged": "red",
    "interrupted": "yellow",
    "missing": "dim",
}


def tables(cells: Sequence[CellState]) -> Parts:
    """One table for each protocol and dataset, then the cells that need words."""
    found: dict[Group, list[CellState]] = {}
    for cell in cells:
        if own := cell.facts:
            found.setdefault(Group(own.protocol, own.overrides, own.dataset), []).append(cell)
    parts: list[RenderableType] = []
    for group, own_cells in found.items():
        parts += [Text(group.title, "bold"), _matrix(own_cells), ""]
    legend = ["figures: R@1 (%) at the last epoch"] if any(cell.state == "done" for cell in cells) else []
    return Parts(*parts, *_in_words(cells), *legend)


def counts(cells: Sequence[CellState]) -> str:
    """How many cells are in each state."""
    found = {state: sum(cell.state == state for cell in cells) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in found.items() if count)


def _matrix(cells: Sequence[CellState]) -> Table:
    """A column for each seed; of many, the number of cells in each state."""
    facts = [(cell, cell.facts) for cell in cells if cell.facts]
    seeds = sorted({own.seed for _, own in facts})
    if len(seeds) > MOST_SEEDS:
        return _of_many_seeds(facts)
    table = Table("method", box=None)
    for seed in seeds:
        table.add_column(f"seed {seed}", justify="right")
    by_row: dict[tuple[str, int], list[CellState]] = {}
    for cell, own in facts:
        by_row.setdefault((_method(own), own.seed), []).append(cell)
    for method in dict.fromkeys(method for method, _ in by_row):
        table.add_row(Text(method), *(_figure(by_row.get((method, seed), ())) for seed in seeds))
    return table


def _of_many_seeds(facts: Sequence[tuple[CellState, Facts]]) -> Table:
    by_method: dict[str, list[CellState]] = {}
    for cell, own in facts:
        by_method.setdefault(_method(own), []).append(cell)
    table = Table("method", "cells", "mean R@1", box=None)
    for method, cells in by_method.items():
        found = [cell.recall_at_1 for cell in cells if cell.recall_at_1 is not None]
        table.add_row(Text(method), counts(cells), f"{100 * mean(found):.2f}" if found else "-")
    return table


def _method(own: Facts) -> str:
    return method_name(own.__dict__ | {"network": MEAN})


def _figure(cells: Sequence[CellState]) -> Text:
    """One entry of the matrix; several cells where a method or protocol was edited in between."""
    return Text(" ").join(_one_figure(cell) for cell in cells) if cells else Text("-")


def _one_figure(cell: CellState) -> Text:
    if cell.state == "done":
        return Text("done" if cell.recall_at_1 is None else f"{100 * cell.recall_at_1:.2f}")
    words = cell.state
    if cell.state in ("running", "interrupted") or (cell.state == "queued" and cell.epoch):
        words = f"{cell.state} {cell.epoch}/{cell.epochs}"
    return Text(words, style=STYLES[cell.state])


def _in_words(cells: Sequence[CellState]) -> list[RenderableType]:
    lines = [Text(f"{cell.state}: {_label(cell)}: {_what(cell)}", STYLES[cell.state]) for cell in cells if _what(cell)]
    states = {cell.state for cell in cells}
    if "failed" in states:
        lines.append(Text("`dmlbench run ... --retry failed` resumes failed cells from their last epoch"))
    if states & {"missing", "interrupted"} and not states & {"running", "queued"}:
        lines.append(Text("the same `dmlbench run` resumes the rest; delete a folder to drop its cell"))
    return list(lines)


def _label(cell: CellState) -> str:
    own = cell.facts
    return f"{_method(own)} on {own.dataset}, seed {own.seed}" if own else "a cell"


def _what(cell: CellState) -> str:
    if cell.state == "running":
        left = "" if cell.seconds_left is None else f", about {_duration(cell.seconds_left)} left"
        job = f", SLURM job {cell.job.id}" if cell.job else ""
        return f"epoch {cell.epoch} of {cell.epochs}{left}, on {cell.host}{job}"
    return f"{cell.why} ({cell.folder / 'log.txt'})" if cell.state == "failed" else cell.why


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def print_costs(console: Console, measurement: Measurement, against: Against = DEFAULT) -> None:
    """A row a method with its step, its ratio and its memory; then the phases of its step."""
    costs = measured_overhead(measurement, against)
    console.print(f"\n{measurement.title}; batch {measurement.batch_size}", markup=False)
    columns = (
        "method",
        "step (ms)",
        "against",
        "ratio",
        "added phases",
        "same work",
        f"over {measurement.epochs} epochs",
    )
    table = Table(*columns, "arithmetic", "images/s", "peak (MiB)", box=None)
    for row in costs.to_dict("records"):
        compared = row["to_method"] != row["method"]
        ratio = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if compared else ""
        keys = ("added", "same_work", "over_training", "arithmetic")
        rest = ("" if not compared or math.isnan(row[key]) else f"{row[key]:.3f}" for key in keys)
        figures = f"{row['images_per_s']:.0f}", f"{row['peak_mb']:.0f}"
        other = row["to_method"] if compared else ""
        table.add_row(row["method"], f"{row['step_ms']:.2f}", other, ratio, *rest, *figures)
    console.print(table)
    console.print(f"{measurement.how}; a ratio is formed within a round", markup=False)
    console.print(
        "with a teacher, added phases: it and distillation over the other's step; same work: forward, loss and "
        "optimiser over the other's, 1 but for noise"
    )
    console.print(_phases(measured_phases(measurement)))
    for doubt in doubts(measurement):
        console.print(f"note: {doubt}", markup=False, style="yellow")


def print_agreement(console: Console, measurement: Measurement, earlier: Sequence[Measurement]) -> None:
    """Whether the latest of the earlier ones of each method, by the same code on the same machine, says the same."""
    for found in agreements(earlier, measurement):
        verdict = "agrees" if found.agree else "DISAGREES"
        ratios = f"{found.earlier.mean:.3f} [{found.earlier.low:.3f}, {found.earlier.high:.3f}]"
        console.print(f"{found.method}: {verdict} with {ratios} of {found.before}", markup=False)


def _phases(phases: pd.DataFrame) -> Table:
    names = phase_order(phases)
    table = Table("phase (ms)", *names, box=None)
    for method, own in phases.groupby("method", sort=False):
        by_phase = dict(zip(own["phase"], own["ms"], strict=True))
        table.add_row(str(method), *(f"{by_phase[name]:.2f}" if name in by_phase else "" for name in names))
    return table
