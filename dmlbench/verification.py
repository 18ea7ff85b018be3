"""Whether results are what they say: each against its spec, its hash and its history."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from dmlbench.errors import UserError
from dmlbench.history import read_history
from dmlbench.selection import selections
from dmlbench.spec import TEACHER_MODE, Cell, digest
from dmlbench.store import Store, read_spec, summary_as_written
from dmlbench.timings import timing
from dmlbench.writer import FILES, file_digest


def problems(store: Store) -> dict[Path, list[str]]:
    """What is wrong with the cells of a results folder; only those with a finding."""
    found = {folder: _problems(store, folder) for folder in store.folders()}
    return {folder: wrong for folder, wrong in found.items() if wrong}


def _problems(store: Store, folder: Path) -> list[str]:
    try:
        cell, summary = read_spec(folder), summary_as_written(folder)
    except UserError as error:
        return [str(error).removeprefix(f"{folder}/")]
    place = store.folder(cell)
    wrong = (
        [] if place == folder else [f"holds the spec of another cell, whose folder is {place.relative_to(store.root)}"]
    )
    if summary is None:
        return wrong
    wrong += _of_digests(folder, summary)
    if (found := (summary.get("cell") or {}).get("hash")) != cell.hash:
        wrong.append(f"summary.json is of cell {found}, spec.yaml of {cell.hash}")
    elif not _names(summary["cell"], cell):
        wrong.append("summary.json and spec.yaml name the cell differently")
    return wrong + (_of_history(folder, cell, summary) if summary["status"] == "done" else [])


def _names(stated: dict[str, Any], cell: Cell) -> bool:
    """Whether a summary names its cell as the spec does; those of earlier releases left out a teacher's mode."""
    index = cell.index()
    if TEACHER_MODE in stated:
        return stated == index
    left_out = {TEACHER_MODE, "variant", "marks"}
    return {**stated, **{key: index[key] for key in left_out}} == index


def _of_digests(folder: Path, summary: dict[str, Any]) -> list[str]:
    """Whether the summary, and the files it was written for, are as they were."""
    rest = {key: value for key, value in summary.items() if key != "digest"}
    if summary.get("digest") != digest(rest):
        return ["summary.json is not as it was written: its digest differs"]
    return changed_files(folder, summary)


def changed_files(folder: Path, summary: dict[str, Any], looked_at: Collection[str] = FILES) -> list[str]:
    """What of a result's files is not as it was when its summary was written, in words.

    Args:
        folder: The cell's.
        summary: Its summary.
        looked_at: The files to read: kept weights and embeddings are large.
    """
    digests: dict[str, str] = summary.get("files") or {}
    files = {name: value for name, value in digests.items() if name in looked_at}
    there = {name for name in looked_at if (folder / name).is_file()}
    wrong = [f"{name} is missing" for name in files.keys() - there]
    wrong += [f"{name} came after summary.json" for name in there - files.keys()]
    same = sorted(there & files.keys())
    return wrong + [f"{name} is not as it was written" for name in same if file_digest(folder / name) != files[name]]


def _of_history(folder: Path, cell: Cell, summary: dict[str, Any]) -> list[str]:
    try:
        rows = read_history(folder)
    except UserError as error:
        return [str(error).removeprefix(f"{folder}/")]
    expected = list(range(cell.protocol.training.epochs + 1))
    if [row["epoch"] for row in rows] != expected:
        return [f"history.csv does not hold the epochs 0 to {expected[-1]}, once each"]
    sums = {"selections": selections(rows), "timing": timing(rows, summary.get("resumed", ()))}
    wrong = [name for name, value in sums.items() if summary.get(name) != value]
    return [f"summary.json: {name} does not follow from history.csv: edited" for name in wrong]
