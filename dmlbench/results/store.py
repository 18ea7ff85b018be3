"""The results folder: one folder a cell, written atomically, locked while it runs, never overwritten.

`results/runs/<protocol>/<dataset>/<method>/seed<k>-<hash8>/` holds `spec.yaml` (everything resolved),
`history.csv` (a row an epoch), `summary.json` (written last: its presence is the result) and `log.txt`. The spec is
written when a run is planned, so the folders with a spec alone are the cells that are missing.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from dmlbench.atomic import write_atomically
from dmlbench.errors import Damaged, OnDamaged, UserError, attempt, sound, warn
from dmlbench.results.evaluated import FOLDER as EVALUATED
from dmlbench.results.history import HISTORY, read_history
from dmlbench.results.locks import holder
from dmlbench.results.measurements import FOLDER as MEASUREMENTS
from dmlbench.results.records import SHOWN, VERSION, Index, Summary, in_one_line, read_json
from dmlbench.results.writer import SPEC, TEXTS, changed_files, spec_text, storing
from dmlbench.specs.cell import TEACHER_MODE, Cell
from dmlbench.specs.yaml_files import parse_written

DEFAULT_ROOT = Path("results/runs")
State = Literal["missing", "running", "interrupted", "done", "failed", "damaged"]
AGAIN = "restore it from a copy, or move its folder away to run the cell again"
LARGEST_SPEC = 2**24  # bytes
LATER = (TEACHER_MODE, "variant", "marks")  # of an index: what earlier releases wrote otherwise
# What YAML and the models raise for content that is none of a spec, however deep, long or oddly tagged.
WRONG = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, yaml.YAMLError)


@dataclass(frozen=True)
class Record:
    """A finished cell as read back: its folder and its summary."""

    folder: Path
    summary: Summary

    @property
    def done(self) -> bool:
        """Whether the cell finished without failing."""
        return self.summary.done


class Store:
    """A results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, cell: Cell) -> Path:
        """The cell's folder; a changed spec is another hash, hence another folder."""
        name = f"seed{cell.seed}-{cell.hash[:8]}"
        return self.root / cell.protocol.name / cell.dataset.name / cell.method.name / name

    def state(self, cell: Cell) -> State:
        """What the folder says of the cell; damaged, too, where it holds the result of another one."""
        return "damaged" if isinstance(self.record(cell), Damaged) else folder_state(self.folder(cell))

    def plan(self, cells: Sequence[Cell]) -> list[Path]:
        """Write the spec of every cell that has none, so that `status` knows of the cells to come; their folders."""
        new = []
        for cell in cells:
            folder = self.folder(cell)
            if not (folder / SPEC).is_file():
                with storing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    write_atomically(folder / SPEC, spec_text(cell))
                new.append(folder)
        return new

    def forget(self, planned: Sequence[Path]) -> None:
        """Remove folders that `plan` made, where nothing came to their specs."""
        for folder in planned:
            with suppress(OSError):
                if [path.name for path in folder.iterdir()] == [SPEC]:
                    (folder / SPEC).unlink()
                    for empty in (folder, *folder.parents[: len(folder.relative_to(self.root).parts) - 1]):
                        empty.rmdir()

    def record(self, cell: Cell) -> Record | Damaged | None:
        """The cell's result, or why it is none; None while nothing is there."""
        folder = self.folder(cell)
        record = read_record(folder)
        if isinstance(record, Record) and record.summary.cell.hash != cell.hash:
            return _of_another(folder, record.summary.cell.hash, cell.hash)
        return record

    def folders(self) -> list[Path]:
        """The folder of every cell that was ever begun, in path order.

        Raises:
            UserError: where a folder on the way cannot be read: a result that is not seen would be left out silently.
        """
        level = [self.root] if self.root.is_dir() else []
        for _ in ("protocol", "dataset", "method", "cell"):
            level = [child for folder in level for child in _subfolders(folder)]
        return [folder for folder in level if folder.name.startswith("seed") and _has_any(folder)]

    def records(self, damaged: OnDamaged = warn) -> Iterator[Record]:
        """Every finished cell, in path order; `damaged` takes the results that cannot be read."""
        found = (record for folder in self.folders() if (record := read_record(folder)) is not None)
        return sound(found, damaged)

    def damaged(self) -> list[Damaged]:
        """The results that cannot be read."""
        return [record for folder in self.folders() if isinstance(record := read_record(folder), Damaged)]

    def next_command(self) -> str:
        """What a user who finds no cells here does next."""
        inner = self.root / "runs"
        return f"name {inner} with --results" if inner.is_dir() else "`dmlbench run --results` fills it"

    def check_readable(self) -> None:
        """Raise UserError where the results folder is not there or cannot be read."""
        try:
            os.listdir(self.root)  # noqa: PTH208 - the plainest call that distinguishes a missing folder from an unreadable one
        except FileNotFoundError:
            hint = "run `dmlbench run` first, or name it with --results"
            raise UserError(f"{self.root}: no such results folder", hint=hint) from None
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
            what = f"{self.root}: cannot write results here ({error.strerror})"
            raise UserError(what, hint="name another folder with --results") from error


@dataclass(frozen=True)
class Roots:
    """Results folders that are read as one: of yours, of other machines, of other people.

    Cells are the same where their hashes are. Each counts once.
    """

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, given: "str | Path | Iterable[str | Path] | Roots") -> "Roots":
        """One folder, or several.

        Raises:
            UserError: for none, for one that is given twice, and for several of which one holds nothing.
        """
        if isinstance(given, Roots):
            return given
        paths = tuple(map(Path, [given] if isinstance(given, str | Path) else given))
        if not paths:
            raise UserError("--results: name at least one folder")
        for number, path in enumerate(paths):
            if any(path.resolve() == other.resolve() for other in paths[:number]):
                raise UserError(f"--results {path}: is given twice")
        roots = cls(paths)
        for store in roots.stores if len(paths) > 1 else ():
            store.check_readable()
            others = itertools.chain((store.root / MEASUREMENTS).glob("*.json"), (store.root / EVALUATED).glob("*/*/*"))
            if not store.folders() and not any(others):
                raise UserError(f"{store.root}: no cells yet", hint=store.next_command())
        return roots

    @property
    def stores(self) -> list[Store]:
        """A store for each."""
        return [Store(path) for path in self.paths]

    @property
    def title(self) -> str:
        """For people: their paths."""
        return ", ".join(map(str, self.paths))

    def label(self, path: Path) -> str:
        """A path below one of them as readers elsewhere know it; of several it begins with the folder's name."""
        around = [root for root in self.paths if path.resolve().is_relative_to(root.resolve())]
        root = max(around, key=lambda one: len(one.resolve().parts))  # one may lie in another
        inner = path.resolve().relative_to(root.resolve()).as_posix()
        return inner if len(self.paths) == 1 else f"{self.names[root]}/{inner}"

    @property
    def names(self) -> dict[Path, str]:
        """Each folder's name, the second of a name with a number."""
        found: dict[Path, str] = {}
        for path in self.paths:
            name, number = path.resolve().name, 2
            while name in found.values():
                name, number = f"{path.resolve().name}-{number}", number + 1
            found[path] = name
        return found

    def records(self, damaged: OnDamaged = warn) -> list[Record]:
        """Every result, once each, in path order.

        Of several folders that hold a cell the first counts in which it is done and its spec and history can be read.
        `damaged` takes the results that cannot be read, and those that have other metrics than the one that counts.
        """
        found: dict[str, list[Record]] = {}
        for record in (record for store in self.stores for record in store.records(damaged)):
            found.setdefault(record.summary.cell.hash, []).append(record)
        return [copies[0] if len(copies) == 1 else _one_of(copies, damaged) for copies in found.values()]


def _one_of(copies: Sequence[Record], damaged: OnDamaged) -> Record:
    """The result of a cell that counts, of several."""
    flaws = [next(filter(None, (_flaw(read, record) for read in (read_spec, read_history))), None) for record in copies]
    whole = [record for record, flaw in zip(copies, flaws, strict=True) if flaw is None] or list(copies)
    first = next((record for record in whole if record.done), whole[0])
    for flaw in flaws:
        if flaw is not None:
            damaged(flaw)
    for record in whole:
        if record.done and record.summary.selections != first.summary.selections:
            what = f"{record.folder}: has other metrics than the same cell in {first.folder}, which counts"
            damaged(Damaged(record.folder, f"{what}; it comes first among --results"))
    return first


def _flaw(read: Callable[[Path], object], record: Record) -> Damaged | None:
    found = attempt(read, record.folder)
    return found if isinstance(found, Damaged) else None


def folder_state(folder: Path) -> State:
    """What a cell's folder says of it."""
    record = read_record(folder)
    if isinstance(record, Damaged):
        return "damaged"
    if record is not None:
        return "done" if record.done else "failed"
    if holder(folder):
        return "running"
    return "interrupted" if (folder / HISTORY).is_file() else "missing"


def read_record(folder: Path) -> Record | Damaged | None:
    """The result in a cell's folder, or why it cannot be read or trusted; None where there is none.

    A history of which half is lost can still be read, and would be reported in silence.
    """
    summary = attempt(read_summary, folder)
    if not isinstance(summary, Summary):
        return summary
    if not summary.files or not (changed := changed_files(folder, summary, TEXTS)):
        return Record(folder, summary)
    if attempt(read_summary, folder) != summary:  # the cell began again while it was read
        return read_record(folder)
    spec = attempt(read_spec, folder)
    if isinstance(spec, Cell) and spec.hash != summary.cell.hash:
        return _of_another(folder, summary.cell.hash, spec.hash)
    name, _, what = changed[0].partition(" ")
    return Damaged(folder, f"{folder / name}: {what}; {AGAIN}")


def _of_another(folder: Path, found: str, wanted: str) -> Damaged:
    told = f"{folder / 'summary.json'}: is the result of cell {found}, not of {wanted}"
    return Damaged(folder, f"{told}; it was edited or copied here; {AGAIN}")


def read_summary(folder: Path) -> Summary | None:
    """Read `summary.json`; None where there is none.

    What one of an earlier release leaves out of its cell's index is filled in.

    Raises:
        UserError: where the file is not a summary, or of a version this dmlbench does not know.
    """
    summary = summary_as_written(folder)
    if summary is None or summary.cell.teacher_mode is not None:
        return summary
    return summary.model_copy(update={"cell": _completed(folder, summary.cell)})


def _completed(folder: Path, cell: Index) -> Index:
    """A cell's index as today's `Cell.index` gives it.

    Raises:
        UserError: where only the spec could tell a teacher's mode, and it cannot be read or is of another cell.
    """
    update: dict[str, object] = {TEACHER_MODE: ""}
    if cell.modifier:
        spec = read_spec(folder)
        if spec.hash != cell.hash:
            raise UserError(f"{folder / 'summary.json'}: is of cell {cell.hash}, not of its spec's", hint=AGAIN)
        update = {key: spec.index()[key] for key in LATER}
    return cell.model_copy(update=update)


def summary_as_written(folder: Path) -> Summary | None:
    """What `read_summary` reads, with nothing filled in."""
    path = folder / "summary.json"
    try:
        content = read_json(path, "a summary", AGAIN)
    except FileNotFoundError:
        return None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        what = f"{path}: results version {str(version)[:20]} is not known here (known: {VERSION})"
        raise UserError(what, hint="use the dmlbench that wrote it, or another --results")
    try:
        return Summary.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: not a summary ({in_one_line(error)})", hint=AGAIN) from error


def has_ended(folder: Path, failure: int | None = None) -> bool:
    """Whether the cell has a result that is not to be replaced: done, or failed at another time than `failure`."""
    summary = read_summary(folder)
    return bool(summary and (summary.done or ended_at(folder) != failure))


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
        if path.stat().st_size > LARGEST_SPEC:
            raise ValueError(f"has more than {LARGEST_SPEC >> 20} MiB")
        cell, stated = _cell_of(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UserError(f"{path}: not a readable spec ({in_one_line(error)})", hint=AGAIN) from error
    except (OSError, *WRONG) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:SHOWN]
        raise UserError(f"{path}: not a readable spec ({reason})", hint=AGAIN) from error
    if stated != cell.hash:
        what = f"says hash {stated}, but its values give {cell.hash}: edited by hand, or of another dmlbench"
        raise UserError(f"{path}: {what}", hint=AGAIN)
    return cell


@lru_cache(maxsize=1024)
def _cell_of(text: str) -> tuple[Cell, str]:
    """The cell of a spec and the hash that it states: a report asks for each seven times."""
    content = parse_written(text)
    return Cell.from_dict(content), str(content["hash"])[:40]


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
