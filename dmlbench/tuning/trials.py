"""Runs searches stage by stage, all of a wave together: first the bases, then what is built on their values.

What a search does next follows from the scores of its cells alone. So nothing but cells is kept, and a search that was
killed and is run again is the search that was not.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from dmlbench.analysis.groups import without_paths
from dmlbench.errors import Damaged
from dmlbench.results.store import Record
from dmlbench.runner import matrix
from dmlbench.runner.execution import Execution
from dmlbench.runner.signals import Interrupts
from dmlbench.specs.cell import Cell
from dmlbench.specs.protocol_spec import Scalar
from dmlbench.specs.tuned import Finalist, StageRecord, Tuned, identity_of
from dmlbench.tuning.schedule import FOLDS, Outcome, Request, Scores, Values, halving
from dmlbench.tuning.subject import SEEDS, Subject

Shown = Callable[[Sequence[Cell]], AbstractContextManager[matrix.Observer]]
Search = Generator[Request, Scores, Outcome]
TRANSIENT = ("memory", "died", "storage")


@dataclass(frozen=True)
class Trial:
    """A configuration that was trained in a stage, and its mean scores; None where a training diverged.

    `number` counts from 1 within the `of` configurations of its stage.
    """

    stage: str
    number: int
    of: int
    values: Values
    map_at_r: float | None
    recall_at_1: float | None


@dataclass(frozen=True)
class Tuning:
    """What came of it: an entry for each subject that was searched to its end, and why others were not."""

    entries: list[Tuned] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Runner:
    """How cells are run, and who is told.

    Attributes:
        execution: Its store takes the cells.
        shown: Makes what shows the cells of a stage.
        interrupts: Raises KeyboardInterrupt after the stage's epoch.
        command: The command line, for the record.
        tell: Called for every configuration that was trained in a stage.
    """

    execution: Execution
    shown: Shown
    interrupts: Interrupts
    command: str
    tell: Callable[[Subject, Trial], None]


def tune(subjects: Sequence[Subject], runner: Runner) -> Tuning:
    """Search values for all subjects, and resume where an earlier call ended.

    Args:
        subjects: As `plan_tuning` gives them.
        runner: How cells are run.
    """
    found = Tuning()
    _wave([subject for subject in subjects if not subject.method.distillation], runner, found)
    bases = {(entry.dataset, entry.protocol, entry.method): entry.values for entry in found.entries}
    ready = []
    for subject in subjects:
        if subject.method.distillation:
            values = subject.base_values if subject.base_values is not None else bases.get(subject.place)
            if values is None:
                found.failures.append(f"{subject.label}: its base {subject.method.base} could not be tuned")
            else:
                ready.append(replace(subject, base_values=values))
    _wave(ready, runner, found)
    return found


def _wave(subjects: Sequence[Subject], runner: Runner, found: Tuning) -> None:
    """Search for all subjects at once, stage by stage, and add to `found` what comes of it."""
    searches: list[tuple[Subject, Search, Request]] = []
    for subject in subjects:
        if subject.searches:
            search = halving(subject.schedule, subject.files(), subject.candidates())
            searches.append((subject, search, next(search)))
        else:
            found.entries.append(_entry(subject, Outcome((), (), None), runner))
    while searches:
        cells = [cell for subject, _, request in searches for own in _cells(subject, request) for cell in own]
        _run(cells, runner)
        still = []
        for subject, search, request in searches:
            records = [list(map(runner.execution.store.record, own)) for own in _cells(subject, request)]
            if wrong := next(filter(None, map(_wrong, records)), ""):
                found.failures.append(f"{subject.label}, stage {request.stage.name}: {wrong}")
                continue
            _tell(subject, request, records, runner)
            try:
                still.append((subject, search, search.send([_scores(own, "map_at_r") for own in records])))
            except StopIteration as end:
                _end(subject, end.value, runner, found)
        searches = still


def _end(subject: Subject, outcome: Outcome, runner: Runner, found: Tuning) -> None:
    if outcome.choice is None:
        found.failures.append(f"{subject.label}: all finalists diverged")
    else:
        found.entries.append(_entry(subject, outcome, runner))


def _cells(subject: Subject, request: Request) -> list[list[Cell]]:
    return [subject.cells(values, request.stage) for values in request.configurations]


def _run(cells: Sequence[Cell], runner: Runner) -> None:
    """Run the cells of a stage that have no result; a training that diverged is one."""
    store = runner.execution.store
    distinct = {cell.hash: cell for cell in cells}.values()
    todo = [cell for cell in distinct if not _ended(store.record(cell))]
    if todo:
        store.plan(todo)
        with runner.shown(todo) as display:
            matrix.execute(todo, runner.execution, [display], runner.interrupts)
    if runner.interrupts.asked:
        raise KeyboardInterrupt


def _ended(record: Record | Damaged | None) -> bool:
    """Whether a cell has its result; a damaged one is never replaced."""
    if isinstance(record, Record):
        error = record.summary.error
        return error is None or error.kind == "diverged"
    return record is not None


def _wrong(records: Sequence[Record | Damaged | None]) -> str:
    """Why a configuration has no score though nothing diverged; empty where it has."""
    if damaged := [record.reason for record in records if isinstance(record, Damaged)]:
        return damaged[0]
    if any(record is None for record in records):
        return "was not trained to its end"
    errors = [error for own in _results(records) if (error := own.summary.error) and not _ended(own)]
    if not errors:
        return ""
    again = "; the same command tries again" if errors[0].kind in TRANSIENT else ""
    return f"{errors[0]}{again}"


def _results(records: Sequence[Record | Damaged | None]) -> list[Record]:
    return [record for record in records if isinstance(record, Record)]


def _scores(records: Sequence[Record | Damaged | None], metric: str) -> tuple[float, ...]:
    """A metric on the tested fold at the last epoch, one a pair; empty where a training diverged."""
    summaries = [record.summary for record in _results(records) if record.done]
    return tuple(summary.last[metric] for summary in summaries) if len(summaries) == len(records) else ()


def _tell(
    subject: Subject, request: Request, records: Sequence[Sequence[Record | Damaged | None]], runner: Runner
) -> None:
    of = len(request.configurations)
    for number, (values, own) in enumerate(zip(request.configurations, records, strict=True), start=1):
        means = (sum(found) / len(found) if (found := _scores(own, name)) else None for name in METRICS)
        runner.tell(subject, Trial(request.stage.name, number, of, values, *means))


METRICS = ("map_at_r", "recall_at_1")


def _entry(subject: Subject, outcome: Outcome, runner: Runner) -> Tuned:
    """What is recorded of a search; where nothing was searched, the base's values."""
    store, choice, base = runner.execution.store, outcome.choice, subject.base_values or {}
    records = [[list(map(store.record, own)) for own in _cells(subject, request)] for request in outcome.requests]
    finalists = outcome.requests[-1].configurations if choice else ()
    identity = identity_of(subject.method, subject.dataset, subject.protocol)
    flat = [record for request in records for own in request for record in _results(own)]
    chosen: Mapping[str, Scalar] = finalists[choice.chosen] if choice else {}
    return Tuned(
        method=subject.method.name,
        dataset=subject.dataset.name,
        protocol=subject.protocol.name,
        study_seed=subject.study_seed,
        values={**base, **chosen},
        stayed=choice is None or choice.chosen == 0,
        over_files=choice.over_files if choice else None,
        over_runner_up=choice.over_runner_up if choice else None,
        finalists=tuple(
            Finalist(values={**base, **values}, **{name: _rounded(_scores(own, name)) for name in METRICS})
            for values, own in zip(finalists, records[-1] if records else [], strict=True)
        ),
        folds=FOLDS,
        budget=subject.schedule.budget,
        epochs=sum(request.cost for request in outcome.requests),
        schedule=tuple(_stage(subject, request) for request in outcome.requests),
        dataset_version=identity["dataset_version"],
        protocol_hash=identity["protocol_hash"],
        method_hash=identity["method_hash"],
        search=subject.searches,
        code=_distinct(record.summary.code.digest for record in flat),
        device=_distinct(record.summary.environment.gpu or record.summary.environment.cpu for record in flat),
        command=without_paths(runner.command),
    )


def _stage(subject: Subject, request: Request) -> StageRecord:
    first = SEEDS * (1 + subject.study_seed)
    pairs = tuple((fold, first + seed) for fold, seed in request.stage.pairs)
    return StageRecord(
        stage=request.stage.name, configurations=len(request.configurations), epochs=request.stage.epochs, pairs=pairs,
        partition=request.stage.partition,
    )  # fmt: skip


def _rounded(scores: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(score, 6) for score in scores)


def _distinct(found: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({each or "unknown" for each in found}))
