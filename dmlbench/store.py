"""The results folder: one folder a cell, written atomically, locked while it runs, never overwritten.

`results/runs/<protocol>/<dataset>/<method>/seed<k>-<hash8>/` holds `spec.yaml` (everything resolved),
`history.csv` (a row an epoch), `summary.json` (written last: its presence is the result) and `log.txt`. The spec is
written when a run is planned, so the folders with a spec alone are the cells that are missing.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dmlbench.atomic import write_atomically
from dmlbench.claims import holder
from dmlbench.errors import UserError
from dmlbench.history import HISTORY
from dmlbench.schema import parse_written
from dmlbench.spec import Cell
from dmlbench.writer import SPEC, VERSION, spec_text, storing

DEFAULT_ROOT = Path("results/runs")
State = Literal["missing", "running", "interrupted", "done", "failed"]


@dataclass(frozen=True)
class Record:
    """A finished cell as read back: its folder and its summary."""

    folder: Path
    summary: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the cell finished without failing."""
        return bool(self.summary["status"] == "done")


class Store:
    """A results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, cell: Cell) -> Path:
        """The cell's folder; a changed spec is another hash, hence another folder."""
        name = f"seed{cell.seed}-{cell.hash[:8]}"
        return self.root / cell.protocol.name / cell.dataset.name / cell.method.name / name

    def state(self, cell: Cell) -> State:
        """What the folder says of the cell.

        Raises:
            UserError: where it holds the result of another cell.
        """
        folder = self.folder(cell)
        summary = read_summary(folder)
        if summary and (found := summary.get("cell", {}).get("hash")) != cell.hash:
            raise UserError(
                f"{folder / 'summary.json'}: is the result of cell {found}, not of {cell.hash}",
                hint="it was edited or copied here; delete the folder to run the cell",
            )
        return folder_state(folder)

    def plan(self, cells: Sequence[Cell]) -> None:
        """Write the spec of every cell that has none, so that `status` knows of the cells to come."""
        for cell in cells:
            folder = self.folder(cell)
            if not (folder / SPEC).is_file():
                with storing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    write_atomically(folder / SPEC, spec_text(cell))

    def record(self, cell: Cell) -> Record | None:
        """The cell's result, or None while there is none."""
        summary = read_summary(self.folder(cell))
        return Record(self.folder(cell), summary) if summary else None

    def folders(self) -> list[Path]:
        """The folder of every cell that was ever begun, in path order.

        Raises:
            UserError: where a folder on the way cannot be read: a result that is not seen would be left out silently.
        """
        level = [self.root] if self.root.is_dir() else []
        for _ in ("protocol", "dataset", "method", "cell"):
            level = [child for folder in level for child in _subfolders(folder)]
        return [folder for folder in level if folder.name.startswith("seed") and _has_any(folder)]

    def records(self) -> Iterator[Record]:
        """Every finished cell, in path order."""
        for folder in self.folders():
            summary = read_summary(folder)
            if summary is not None:
                yield Record(folder, summary)

    def next_command(self) -> str:
        """What a user who finds no cells here does next."""
        inner = self.root / "runs"
        return f"name {inner} with --results" if inner.is_dir() else "`dmlbench run --results` fills it"

    def check_readable(self) -> None:
        """Raise UserError where the results folder is not there or cannot be read."""
        try:
            os.listdir(self.root)  # noqa: PTH208 - the plainest call that tells a missing from an unreadable folder
        except FileNotFoundError:
            raise UserError(
                f"{self.root}: no such results folder", hint="run `dmlbench run` first, or name it with --results"
            ) from None
        except NotADirectoryError:
            raise UserError(f"{self.root}: not a folder", hint="name a results folder with --results") from None
        except OSError as error:
            raise _unreadable(self.root, error) from None

    def check_writable(self) -> None:
        """Create the results folder; raises UserError where that, or writing into it, is not possible."""
        probe = self.root / f".write-test-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"{self.root}: cannot write results here ({error.strerror})", hint="name another folder with --results"
            ) from error


def folder_state(folder: Path) -> State:
    """What a cell's folder says of it."""
    summary = read_summary(folder)
    if summary is not None:
        return "done" if summary["status"] == "done" else "failed"
    if holder(folder):
        return "running"
    return "interrupted" if (folder / HISTORY).is_file() else "missing"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read `summary.json`; None where there is none.

    Raises:
        UserError: where the file is not a summary, or of a version this dmlbench does not know.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(
            f"{path}: not a summary (damaged JSON)", hint="delete its folder to run the cell again"
        ) from error
    version = summary.get("version") if isinstance(summary, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path}: results version {version!r} is not known here (known: {VERSION})",
            hint="use the dmlbench that wrote it, or another --results",
        )
    if not isinstance(summary.get("cell", {}), dict) or summary.get("status") not in ("done", "failed"):
        raise UserError(f"{path}: not a summary (no status of a cell)", hint="delete its folder to run the cell again")
    return dict(summary)


def has_ended(folder: Path, failure: int | None = None) -> bool:
    """Whether the cell has a result that is not to be replaced: done, or failed at another time than `failure`."""
    summary = read_summary(folder)
    return bool(summary and (summary["status"] == "done" or ended_at(folder) != failure))


def ended_at(folder: Path) -> int | None:
    """The time stamp of the cell's result, in nanoseconds; None where there is none."""
    try:
        return (folder / "summary.json").stat().st_mtime_ns
    except OSError:
        return None


def read_spec(folder: Path) -> Cell:
    """Read the cell back from `spec.yaml`.

    Raises:
        UserError: where it is damaged, or its values are not those that were hashed.
    """
    path = folder / SPEC
    try:
        content = parse_written(path.read_text(encoding="utf-8"))
        cell, stated = Cell.from_dict(content), content["hash"]
    except Exception as error:  # a stranger's file may hold anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a readable spec ({reason})") from error
    if stated != cell.hash:
        raise UserError(
            f"{path}: says hash {stated}, but its values give {cell.hash}: edited by hand, or of another dmlbench",
            hint="restore it, or delete its folder to run the cell again",
        )
    return cell


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError as error:
        raise _unreadable(folder, error) from None


def _has_any(folder: Path) -> bool:
    """Whether there is a plan or a result; a result whose spec is lost must be seen, too."""
    found = False
    for name in (SPEC, "summary.json"):
        try:
            (folder / name).stat()
            found = True
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unreadable(folder, error) from None
    return found


def _unreadable(folder: Path, error: OSError) -> UserError:
    hint = "mend its permissions, or name another with --results"
    return UserError(f"{folder}: cannot be read ({error.strerror})", hint=hint)
