"""Runs trials, round by round: one of every subject at a time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import fmean

from dmlbench.analysis.groups import without_paths
from dmlbench.errors import Damaged
from dmlbench.results.store import Record
from dmlbench.runner import matrix
from dmlbench.runner.signals import Interrupts
from dmlbench.specs.cell import Cell
from dmlbench.specs.tuned import Tuned, identity_of
from dmlbench.tuning.study import Study, Trial, open_storage
from dmlbench.tuning.subject import Subject

Shown = Callable[[Sequence[Cell]], AbstractContextManager[matrix.Observer]]
TRANSIENT = ("memory", "died", "storage")
STORAGE = "studies.db"


@dataclass(frozen=True)
class Tuning:
    """What came of it: an entry for each subject that had its trials, why others had not, and what else to know."""

    entries: list[Tuned]
    failures: list[str]
    notes: list[str]


def tune(
    subjects: Sequence[Subject],
    trials: int,
    execution: matrix.Execution,
    shown: Shown,
    interrupts: Interrupts,
    *,
    command: str,
    tell: Callable[[Subject, Trial], None],
) -> Tuning:
    """Run the trials of all subjects, one of each at a time, and resume where an earlier call ended.

    Args:
        subjects: What to tune.
        trials: How many each has in the end.
        execution: How to run them; its store takes the trials' cells.
        shown: Makes what shows the cells of a round.
        interrupts: Raises KeyboardInterrupt after the round's epoch.
        command: The command line, for the record.
        tell: Called for every finished trial.
    """
    storage = open_storage(execution.store.root.parent / STORAGE)
    studies = [
        (subject, Study(storage, subject.study_name, subject.searches, subject.values())) for subject in subjects
    ]
    failures = []
    for number in range(trials):
        due = [(subject, study, study.suggest()) for subject, study in studies if len(study.trials()) == number]
        cells = [cell for subject, _, values in due for cell in subject.cells(number, values)]
        _run(cells, execution, shown, interrupts)
        for subject, study, values in due:
            found = [execution.store.record(cell) for cell in subject.cells(number, values)]
            if wrong := _wrong(found):
                failures.append(f"{subject.label}, trial {number + 1}: {wrong}")
                continue
            study.tell(values, _score(found), _made_with(found))
            tell(subject, study.trials()[number])
    whole = [(subject, study) for subject, study in studies if len(study.trials()) >= trials]
    scored = [(subject, study) for subject, study in whole if study.best(trials)]
    diverged = [subject.label for subject, study in whole if not study.best(trials)]
    failures += [f"{label}: all {trials} trials diverged" for label in diverged]
    more = {subject.label: count for subject, study in whole if (count := len(study.trials())) > trials}
    notes = [f"{label}: {count} trials are there; the first {trials} count" for label, count in more.items()]
    entries = [_entry(*pair, trials, command, _queries(*pair, execution)) for pair in scored]
    return Tuning(entries, failures, notes)


def _run(
    cells: Sequence[Cell],
    execution: matrix.Execution,
    shown: Shown,
    interrupts: Interrupts,
) -> None:
    """Run the cells of a round that have no result; a training that diverged is one."""
    store = execution.store
    distinct = {cell.hash: cell for cell in cells}.values()
    todo = [cell for cell in distinct if not _ended(store.record(cell))]
    if todo:
        store.plan(todo)
        with shown(todo) as display:
            matrix.execute(todo, execution, [display], interrupts)
    if interrupts.asked:
        raise KeyboardInterrupt


def _ended(record: Record | Damaged | None) -> bool:
    """Whether a cell has its result; a damaged one is never replaced."""
    if isinstance(record, Record):
        error = record.summary.error
        return error is None or error.kind == "diverged"
    return record is not None


def _wrong(records: Sequence[Record | Damaged | None]) -> str:
    """Why a trial has no score though nothing diverged; empty where it has."""
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


def _score(records: Sequence[Record | Damaged | None]) -> float | None:
    """R@1 on the held-out classes at the last epoch, mean over seeds; None where a training diverged."""
    summaries = [record.summary for record in _results(records) if record.done]
    if len(summaries) < len(records):
        return None
    return fmean(summary.last["recall_at_1"] for summary in summaries)


def _queries(subject: Subject, study: Study, execution: matrix.Execution) -> int | None:
    """How many queries a trial is scored by: an image alone in its class is none."""
    trial = next(trial for trial in study.trials() if trial.score is not None)
    record = execution.store.record(subject.cells(trial.number, trial.values)[0])
    queries = record.summary.last.get("queries") if isinstance(record, Record) else None
    return None if queries is None else int(queries)


def _entry(subject: Subject, study: Study, trials: int, command: str, queries: int | None) -> Tuned:
    first, best, made_with = study.trials()[0], study.best(trials), study.made_with(trials)
    runner_up = study.runner_up(trials)
    identity = identity_of(subject.method, subject.dataset, subject.protocol)
    assert best is not None and best.score is not None  # noqa: S101, PT018 - narrows the type: only such come here
    return Tuned(
        method=subject.method.name,
        dataset=subject.dataset.name,
        protocol=subject.protocol.name,
        values=best.values,
        trials=trials,
        best=best.number,
        recall_at_1=round(best.score, 6),
        recall_at_1_of_files=None if first.score is None else round(first.score, 6),
        runner_up=None if runner_up is None or runner_up.score is None else round(runner_up.score, 6),
        queries=queries,
        dataset_version=identity["dataset_version"],
        protocol_hash=identity["protocol_hash"],
        method_hash=identity["method_hash"],
        held_out=subject.held_out,
        seeds=subject.seeds,
        search=subject.searches,
        optuna=made_with["optuna"],
        code=made_with["code"],
        device=made_with["device"],
        command=without_paths(command),
    )


def _made_with(records: Sequence[Record | Damaged | None]) -> dict[str, str]:
    """Code and device of a trial's trainings."""
    summaries = [record.summary for record in _results(records)]
    codes = {summary.code.digest or "unknown" for summary in summaries}
    environments = [summary.environment for summary in summaries]
    devices = {own.gpu or own.cpu or "unknown" for own in environments}
    return {"code": ", ".join(sorted(codes)), "device": ", ".join(sorted(devices))}
