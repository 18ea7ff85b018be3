"""Writing one cell's folder: atomically, while its claim is held, and never a part of a result."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from dmlbench.atomic import write_atomically
from dmlbench.errors import StorageError
from dmlbench.results.history import HISTORY, Row, history_text
from dmlbench.results.records import VERSION, Summary
from dmlbench.specs.cell import Cell, digest
from dmlbench.specs.plugins import shown
from dmlbench.specs.yaml_files import dump

SPEC = "spec.yaml"
TEXTS = (SPEC, HISTORY)
FILES = (*TEXTS, "weights.safetensors", "embeddings.safetensors")


class CellWriter:
    """Writes one cell's folder while its claim is held.

    Args:
        folder: The cell's.
        check: Raises where the claim is lost; called before every write.

    Every method raises StorageError where the folder cannot be written; what was there before stays whole.
    """

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self._check = check

    def begin(self, cell: Cell) -> None:
        """Write the spec, and clear a failure that another attempt left."""
        with self.writing():
            (self.folder / "summary.json").unlink(missing_ok=True)
            write_atomically(self.folder / SPEC, spec_text(cell))

    def restart(self) -> None:
        """Clear what an attempt left that nothing can be taken from."""
        with self.writing():
            (self.folder / HISTORY).unlink(missing_ok=True)

    def resume(self, rows: Sequence[Row]) -> None:
        """Resume after these rows: those that an attempt wrote beyond its last checkpoint are dropped."""
        self.rows = list(rows)
        with self.writing():
            write_atomically(self.folder / HISTORY, history_text(self.rows))

    def append(self, row: Row) -> None:
        """Add an epoch's row to `history.csv`."""
        self.resume([*self.rows, row])

    def log(self, line: str) -> None:
        """Add a line to `log.txt`, with the time."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = self.folder / "log.txt"  # names of files that are not UTF-8 are escaped
        with storing(self.folder), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{stamp} {line.rstrip()}\n")

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the summary, the JSON form of a `records.Summary`, which makes the cell a result."""
        with self.writing():
            files = {name: file_digest(self.folder / name) for name in FILES if (self.folder / name).is_file()}
            whole = {"version": VERSION, **summary, "files": files}
            content = json.dumps(whole | {"digest": digest(whole)}, indent=1, allow_nan=False)
            write_atomically(self.folder / "summary.json", content + "\n")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a write: the claim is checked, and what the disk refuses is a StorageError."""
        with storing(self.folder):
            self._check()
            yield


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a StorageError that names the folder."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror or error})") from error


def spec_text(cell: Cell) -> str:
    """The cell as `spec.yaml` holds it: plugins by their path from the working folder, where they lie below it."""
    content = cell.to_dict()
    for part in filter(None, (content["method"]["loss"], content["method"]["distillation"])):
        if part.get("plugin"):
            part["plugin"] = shown(part["plugin"])
    return dump(content, allow_unicode=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_files(folder: Path, summary: Summary, looked_at: Collection[str] = FILES) -> list[str]:
    """What of a result's files is not as it was when its summary was written, in words.

    Only some are `looked_at` where time matters: kept weights and embeddings are large.
    """
    files = {name: value for name, value in summary.files.items() if name in looked_at}
    there = {name for name in looked_at if (folder / name).is_file()}
    wrong = [f"{name} is missing" for name in sorted(files.keys() - there)]
    wrong += [f"{name} came after summary.json" for name in sorted(there - files.keys())]
    each = ((name, _changed(folder / name, files[name])) for name in sorted(there & files.keys()))
    return wrong + [f"{name} {what}" for name, what in each if what]


def _changed(path: Path, written: str) -> str:
    """What is wrong with a file, given the digest of what was written; empty for nothing.

    A text whose line ends git or an editor has converted is as it was written.
    """
    try:
        same = file_digest(path) == written or (path.name in TEXTS and _with_plain_ends(path) == written)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if same else "is not as it was written"


def _with_plain_ends(path: Path) -> str:
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
