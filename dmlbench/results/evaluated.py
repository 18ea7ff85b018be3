"""What was evaluated and not trained here: `evaluated/` of a results folder, a JSON file a row of the leaderboard.

The user's own embeddings, or a network as it is. Neither has seeds, so a report gives them no interval and no verdict.
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from dmlbench.atomic import write_atomically
from dmlbench.errors import Damaged, OnDamaged, UserError, attempt, sound, warn
from dmlbench.results.records import INDEX, Count, Facts, Metric, Name, StrictModel, Text, Value, in_one_line, read_json
from dmlbench.specs.cell import digest
from dmlbench.specs.overrides import Settings

FOLDER = "evaluated"
STATUS = "evaluated"  # of its rows among results
VERSION = 1
MARK = "not trained here"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MOST_NAME = 100
MOVE = "move it away; `dmlbench evaluate --results` writes it again"


class Evaluated(StrictModel):
    """One row.

    Attributes:
        name: As the leaderboard has it.
        what: Whether embeddings were given, or a network was run.
        about: Which, in words.
        sha256: Of the file of embeddings, or of weights; empty without.
        protocol: In whose table it stands; a network had this protocol's images.
        dataset: On whose test classes.
        dataset_version: That of a cell's spec.
        test_images: Rows; `query_images` of them are queries, 0 where each is both.
        metrics: As fractions.
        made: When, ISO 8601 in UTC.
        dmlbench: The release that wrote it.
    """

    version: Literal[1] = 1
    name: Name
    what: Literal["embeddings", "network"]
    about: Text
    sha256: Text = ""
    protocol: Name
    dataset: Name
    dataset_version: Text
    test_images: Count
    query_images: Count = 0
    test_classes: Count
    metrics: dict[Metric, Value]
    made: str
    dmlbench: Text = ""

    @model_validator(mode="after")
    def _is_whole(self) -> "Evaluated":
        if "recall_at_1" not in self.metrics:
            raise ValueError("no recall_at_1")
        if reserved := {name for name in self.metrics if "/" in name or name in INDEX}:
            raise ValueError(f"{min(reserved)!r} is no metric")
        datetime.fromisoformat(self.made)
        return self

    @property
    def mark(self) -> str:
        """What tables say of it."""
        return f"{MARK}: {self.about}"

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of what it is, whenever it was made."""
        return digest(self.model_dump(mode="json", exclude={"made", "dmlbench"}))

    @property
    def facts(self) -> Facts:
        """Its columns in a table of results; as of a network that is not trained, there is no base."""
        none = Settings()
        return Facts(
            protocol=self.protocol,
            overrides=none,
            dataset=self.dataset,
            method=self.name,
            base="",
            base_settings=none,
            modifier="",
            modifier_settings=none,
            tuned=False,
            seed=0,
            hash=self.hash,
            protocol_hash="",
            dataset_version=self.dataset_version,
            method_hash=self.hash,
            base_hash="",
            modifier_hash="",
        )


def now() -> str:
    """The time as a record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_name(name: str, taken: Iterable[str]) -> None:
    """Raise UserError where a row cannot be called so."""
    if not NAME.fullmatch(name) or len(name) > MOST_NAME:
        hint = f"letters, digits, '.', '_' and '-', {MOST_NAME} at most"
        raise UserError(f"--name {name[:MOST_NAME]!r}: not a plain name", hint=hint)
    if name in {*taken, "untrained"}:
        raise UserError(f"--name {name}: is a method's name", hint="give it another")


def file_of(root: Path, protocol: str, dataset: str, name: str) -> Path:
    """The file of a row, one for each protocol, dataset and name."""
    return root / FOLDER / protocol / dataset / f"{name}.json"


def new_file(root: Path, protocol: str, dataset: str, name: str) -> Path:
    """The file of a row; raises UserError where it is there already."""
    path = file_of(root, protocol, dataset, name)
    if path.exists():
        raise UserError(f"{path}: is there already", hint="give another --name, or delete it")
    return path


def write_evaluated(path: Path, row: Evaluated) -> None:
    """Write a row; raises UserError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"version": VERSION} | row.as_json(), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})", hint="name another --results") from error


def read_evaluated(roots: Iterable[Path], damaged: OnDamaged = warn) -> list[tuple[Path, Evaluated]]:
    """Every row of results folders with its file, by protocol, dataset and name.

    What cannot be read goes to `damaged`, and so does another row of a name that a folder before has: the first counts.
    """
    paths = [path for root in roots for path in sorted((root / FOLDER).glob("*/*/*.json"))]
    read = ((path, attempt(read_row, path)) for path in paths)
    found: dict[tuple[str, str, str], tuple[Path, Evaluated]] = {}
    for path, row in sound((row if isinstance(row, Damaged) else (path, row) for path, row in read), damaged):
        first, known = found.setdefault((row.protocol, row.dataset, row.name), (path, row))
        if known.hash != row.hash:
            damaged(Damaged(path, f"{path}: has other metrics than {first}, which counts; it comes first"))
    return [found[key] for key in sorted(found)]


def read_row(path: Path) -> Evaluated:
    """The row of a file; raises UserError where it is none."""
    try:
        content: Any = read_json(path, "an evaluation", MOVE)
    except FileNotFoundError as error:
        raise UserError(f"{path}: cannot be read (no such file)", hint=MOVE) from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        known = f"evaluation version {str(version)[:20]} is not known here (known: {VERSION})"
        raise UserError(f"{path}: {known}", hint=MOVE)
    try:
        return Evaluated.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: not an evaluation ({in_one_line(error)})", hint=MOVE) from error
