"""The results folder: one folder a cell, written atomically, locked while it runs, never overwritten.

`results/runs/<protocol>/<dataset>/<method>/seed<k>-<hash8>/` holds `spec.yaml` (everything resolved),
`history.csv` (a row an epoch), `summary.json` (written last: its presence is the result) and `log.txt`.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from dmlbench.errors import UserError
from dmlbench.spec import Cell

VERSION = 1
DEFAULT_ROOT = Path("results/runs")
State = Literal["missing", "running", "interrupted", "done", "failed"]
Row = dict[str, float | int | None]


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
        """What the folder says of the cell."""
        return folder_state(self.folder(cell))

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
        return [folder for folder in level if folder.name.startswith("seed") and _has_spec(folder)]

    def records(self) -> Iterator[Record]:
        """Every finished cell, in path order."""
        for folder in self.folders():
            summary = read_summary(folder)
            if summary is not None:
                yield Record(folder, summary)

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


class CellWriter:
    """Writes one cell's folder while its lock is held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []

    def begin(self, cell: Cell) -> None:
        """Clear what an interrupted or failed run left, and write the spec."""
        for name in ("summary.json", "history.csv"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "log.txt").write_text("")  # emptied, not replaced: the process may be writing to it
        write_atomically(self.folder / "spec.yaml", yaml.safe_dump(cell.to_dict(), sort_keys=False, allow_unicode=True))

    def append(self, row: Row) -> None:
        """Add an epoch's row to `history.csv`."""
        self.rows.append(row)
        write_atomically(self.folder / "history.csv", history_text(self.rows))

    def log(self, line: str) -> None:
        """Add a line to `log.txt`."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line.rstrip("\n") + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which makes the cell a result."""
        content = json.dumps({"version": VERSION, **summary}, indent=1, allow_nan=False)
        write_atomically(self.folder / "summary.json", content + "\n")


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Hold the cell's lock; yields False where another process holds it. The lock dies with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=1.0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def folder_state(folder: Path) -> State:
    """What a cell's folder says of it."""
    summary = read_summary(folder)
    if summary is not None:
        return "done" if summary["status"] == "done" else "failed"
    if not (folder / "spec.yaml").is_file():
        return "missing"
    return "running" if _is_locked(folder / ".lock") else "interrupted"


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
    return dict(summary)


def read_spec(folder: Path) -> Cell:
    """Read the cell back from `spec.yaml`; raises UserError where it is damaged."""
    path = folder / "spec.yaml"
    try:
        return Cell.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable spec ({reason})") from error


def history_text(rows: list[Row]) -> str:
    """The CSV of a history: full precision, empty where nothing was measured, timing columns last."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns.sort(key=lambda key: key.startswith("time/"))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else repr(value) for key, value in row.items()})
    return buffer.getvalue()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside the target, flush to disk and rename: a reader sees the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError as error:
        raise _unreadable(folder, error) from None


def _has_spec(folder: Path) -> bool:
    try:
        (folder / "spec.yaml").stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(folder, error) from None
    return True


def _unreadable(folder: Path, error: OSError) -> UserError:
    hint = "mend its permissions, or name another with --results"
    return UserError(f"{folder}: cannot be read ({error.strerror})", hint=hint)


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    lock = FileLock(path, timeout=0)
    try:
        with lock:
            return False
    except (Timeout, OSError):
        return True
