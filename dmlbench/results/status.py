"""Whether results are what they say: each against its spec, its hash and its history.

The state of every planned cell of a results folder.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from dmlbench.errors import UserError
from dmlbench.results.history import Row, read_history, selections, timing
from dmlbench.results.locks import holder
from dmlbench.results.records import Facts, Index, Summary, facts, one_wording, read_json
from dmlbench.results.store import AGAIN, LATER, Roots, Store, folder_state, read_spec, read_summary, summary_as_written
from dmlbench.results.submissions import UNKNOWN, Job, jobs
from dmlbench.results.writer import TEXTS, changed_files
from dmlbench.specs.cell import Cell, digest


def problems(store: Store) -> dict[Path, list[str]]:
    """What is wrong with the cells of a results folder; only those with a finding."""
    found = {folder: _problems(store, folder) for folder in store.folders()}
    return {folder: wrong for folder, wrong in found.items() if wrong}


def _problems(store: Store, folder: Path) -> list[str]:
    try:
        cell, summary = read_spec(folder), summary_as_written(folder)
    except UserError as error:
        return [str(error).removeprefix(f"{folder}/")]
    wrong = []
    if (expected := store.folder(cell)) != folder:
        wrong.append(f"holds the spec of another cell, whose folder is {expected.relative_to(store.root)}")
    if summary is None:
        return wrong
    wrong += _of_digests(folder, summary)
    if summary.cell.hash != cell.hash:
        wrong.append(f"summary.json is of cell {summary.cell.hash}, spec.yaml of {cell.hash}")
    elif not _names(summary.cell, cell):
        wrong.append("summary.json and spec.yaml name the cell differently")
    return wrong + (_of_history(folder, cell, summary) if summary.done else [])


def _names(stated: Index, cell: Cell) -> bool:
    """Whether a summary names its cell as the spec does; those of earlier releases left out a teacher's mode."""
    index, found = cell.index(), stated.as_json()
    if stated.teacher_mode is None:
        found |= {key: index[key] for key in LATER}
    return found == index


def _of_digests(folder: Path, summary: Summary) -> list[str]:
    """Whether the summary, and the files it was written for, are as they were."""
    content = read_json(folder / "summary.json", "a summary", AGAIN)
    if summary.digest != digest({key: value for key, value in content.items() if key != "digest"}):
        return ["summary.json is not as it was written: its digest differs"]
    return changed_files(folder, summary)


def _of_history(folder: Path, cell: Cell, summary: Summary) -> list[str]:
    try:
        rows = read_history(folder)
    except UserError as error:
        return [str(error).removeprefix(f"{folder}/")]
    expected = list(range(cell.protocol.training.epochs + 1))
    if [row["epoch"] for row in rows] != expected:
        return [f"history.csv does not hold the epochs 0 to {expected[-1]}, once each"]
    stated, sums = summary.as_json(), {"selections": selections(rows), "timing": timing(rows, summary.resumed)}
    wrong = [name for name, value in sums.items() if stated.get(name) != value]
    return [f"summary.json: {name} does not follow from history.csv: edited" for name in wrong]


STATES = ("done", "running", "failed", "queued", "interrupted", "missing", "damaged")


@dataclass(frozen=True)
class CellState:
    """The state of a cell; of a damaged one neither `cell` nor `facts` are known.

    Args:
        state: One of `STATES`; `queued` is missing or interrupted, and a SLURM job that waits or runs has it.
        epoch: Epochs trained.
        epochs: Epochs to train; None where only the spec of a damaged cell would tell.
        seconds_left: What the epochs to come take by those that were; None where it does not run.
        recall_at_1: At the last epoch, a fraction; None without a result.
        why: Why it failed, or what is damaged.
        host: Where it runs.
        code: Digest of the training code that made the result.
        job: The SLURM job it was last submitted with, unless it has ended.
    """

    folder: Path
    state: str
    cell: Index | None
    facts: Facts | None = None
    epoch: int = 0
    epochs: int | None = None
    seconds_left: float | None = None
    recall_at_1: float | None = None
    why: str = ""
    host: str = ""
    code: str | None = None
    job: Job | None = None


LookUp = Callable[[Path, Collection[str]], Mapping[str, Job]]  # the SLURM jobs of a results folder's cells


def overview(roots: Roots, look_up: LookUp = jobs) -> list[CellState]:
    """Every cell that was ever planned, in path order; a damaged one is a state, not an error.

    Of a cell that several folders hold, the state that has come furthest counts, and of equal ones the first.
    """
    looked = ((store, [_look(folder) for folder in store.folders()]) for store in roots.stores)
    every = [own for store, cells in looked for own in _with_jobs(store, cells, look_up)]
    best: dict[str, CellState] = {}
    for own in every:
        key = own.facts.hash if own.facts else str(own.folder)
        if key not in best or STATES.index(own.state) < STATES.index(best[key].state):
            best[key] = own
    found = list(best.values())
    worded = iter(one_wording(cell.facts for cell in found if cell.facts))
    return [replace(cell, facts=next(worded)) if cell.facts else cell for cell in found]


def _with_jobs(store: Store, cells: list[CellState], look_up: LookUp) -> list[CellState]:
    """The same with the SLURM jobs of cells that have not ended."""
    waiting = {cell.facts.hash for cell in cells if cell.facts and cell.state in ("running", "interrupted", "missing")}
    found = look_up(store.root, waiting) if waiting else {}
    return [_with_job(cell, found.get(cell.facts.hash) if cell.facts else None) for cell in cells]


def _with_job(cell: CellState, job: Job | None) -> CellState:
    if job is None:
        return cell
    if cell.state == "running":
        return replace(cell, job=job if job.live else None)  # else another runner has it
    queued = job.live and job.state != UNKNOWN
    return replace(cell, job=job, state="queued" if queued else cell.state, why=str(job))


def _look(folder: Path) -> CellState:
    try:
        summary, rows = read_summary(folder), read_history(folder)
        epoch = max((int(row["epoch"] or 0) for row in rows), default=0)
        if summary is not None and (changed := changed_files(folder, summary, TEXTS)):
            return CellState(folder, "damaged", None, why=f"{folder}: {changed[0]}")
        cell = read_spec(folder)
        if summary is not None:
            return _ended(folder, summary, facts(cell), epoch)
        state, owner = folder_state(folder), holder(folder)
    except UserError as error:
        return CellState(folder, "damaged", None, why=str(error))
    epochs = cell.protocol.training.epochs
    left = _seconds_left(rows, epochs - epoch) if state == "running" else None
    index, host = Index(**cell.index()), owner.name if owner else ""
    return CellState(folder, state, index, facts(cell), epoch, epochs, left, host=host)


def _ended(folder: Path, summary: Summary, own: Facts, epoch: int) -> CellState:
    return CellState(
        folder,
        summary.status,
        summary.cell,
        own,
        epoch,
        epoch if summary.done else None,
        recall_at_1=summary.last.get("recall_at_1"),
        why=str(summary.error) if summary.error else "",
        code=summary.code.digest or None,
    )


def _seconds_left(rows: list[Row], epochs: int) -> float | None:
    spent = [(row.get("time/train_s") or 0) + (row.get("time/evaluation_s") or 0) for row in rows if row["epoch"]]
    return epochs * median(spent) if spent else None
