"""What a result is: the typed record of `summary.json`, and `Facts`, what its cell is made of.

This is the one boundary at which results of other machines and releases are checked. Keys that are not named here are
kept and never used. Types are strict and numbers bounded, so readers of a result need no further checks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from dmlbench.errors import UserError
from dmlbench.specs.cell import Cell, digest
from dmlbench.specs.overrides import Settings, changes
from dmlbench.specs.yaml_files import in_words

VERSION = 1
LARGEST = 2**26  # bytes of a JSON file: the largest results have less than a hundredth of it
SHOWN = 80  # characters of a name that an error quotes
# Columns of a table beside `INDEX` and the metrics, which cannot have such names.
COLUMNS = (
    "status", "selection", "network", "networks", "marks", "folder", "step_ms", "train_seconds", "machine",
    "exclusive", "origin", "kind", "epoch", "error",
)  # fmt: skip

Name = Annotated[str, Field(min_length=1, max_length=300)]
Text = Annotated[str, Field(max_length=20_000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Ge(0), Le(10**12)]
Value = Annotated[float, Ge(-1e12), Le(1e12)]
Duration = Annotated[float, Ge(0), Le(1e10)]
Metric = Annotated[str, Field(pattern=r"^((member[1-9][0-9]{0,3}|ensemble)/)?[a-z][a-z0-9_]{0,99}$")]
SelectionName = Literal["untrained", "last", "validation", "best_test"]


class StrictModel(BaseModel):
    """A part of a record: frozen, strict about types, and what it does not know is kept."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False, populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        """The JSON form, with what was given alone."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Index(StrictModel):
    """Which cell it is: `Cell.index`. Results of earlier releases state no teacher's mode."""

    hash: Digest
    protocol: Name
    variant: Text
    dataset: Name
    method: Name
    base: Name
    modifier: Annotated[str, Field(max_length=300)]
    teacher_mode: Text | None = None
    seed: Annotated[int, Ge(0), Le(2**63 - 1)]
    marks: list[Text]
    protocol_hash: Digest


class Code(StrictModel):
    """State of the training code."""

    digest: Text = ""
    commit: Text = ""
    dirty: bool = False


class Environment(StrictModel):
    """The machine, its load and its libraries, most of them extra keys; empty where the cell failed before.

    Attributes:
        machine: Identifies it without its name.
        processes: Cells that ran at a time.
        gpus_per_cell: GPUs that trained it together, where they were more than one.
        system_metrics: Whether MLflow sampled the machine meanwhile, which takes from what is timed.
        places: Where its attempts ran, of a cell that several machines trained.
    """

    machine: Text | None = None
    device: Text | None = None
    cpu: Text | None = None
    system: JsonValue = None
    cpu_capability: JsonValue = None
    dmlbench: JsonValue = None
    torch: JsonValue = None
    gpu: Text | None = None
    cuda: JsonValue = None
    processes: Annotated[int, Ge(1), Le(10**6)] | None = None
    data_workers: Annotated[int, Ge(0), Le(10**6)] | None = None
    gpus_per_cell: Annotated[int, Ge(2), Le(10**6)] | None = None
    system_metrics: int | bool | None = None
    places: JsonValue = None

    @property
    def device_kind(self) -> str:
        """`cpu` or `cuda`, without a number; "" where it is not known."""
        return (self.device or "").partition(":")[0]


class Data(StrictModel):
    """What was trained and tested on; classes held out for validation count as neither.

    Where test images are queries and a gallery, `query_images` of them are queries; it is 0 where each is both.
    """

    name: Name
    version: Text
    fold: JsonValue = None
    skipped: list[Text] = Field(default_factory=list)
    fingerprint: Name
    train_images: Count = 0
    train_classes: Count = 0
    test_images: Count = 0
    query_images: Count = 0
    test_classes: Count = 0


class Selection(StrictModel):
    """Metrics under one choice of the epoch, and the epoch of each."""

    epochs: dict[Metric, Count]
    metrics: dict[Metric, Value]

    @model_validator(mode="after")
    def _same_names(self) -> "Selection":
        if self.epochs.keys() != self.metrics.keys():
            raise ValueError("epochs and metrics have different names")
        names = {name.rpartition("/")[2] for name in self.metrics}
        if reserved := names & {*INDEX, *COLUMNS}:
            raise ValueError(f"{min(reserved)!r} is no metric")
        networks = {name.partition("/")[0] for name in self.metrics if "/" in name}
        if networks and not {"member1", "ensemble"} <= networks:
            raise ValueError("networks without the first of them, or without their ensemble")
        return self


class Timing(StrictModel):
    """What the training cost."""

    step_ms: Annotated[float, Gt(0), Le(1e10)]
    train_s: Duration
    evaluation_s: Duration = 0.0
    phases: dict[str, Duration] = Field(default_factory=dict)


class Failure(StrictModel):
    """Why a cell failed."""

    kind: Name
    error_class: JsonValue = Field(default="", validation_alias="class", serialization_alias="class")
    message: Text
    log: list[Text] = Field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class Summary(StrictModel):
    """A result. Failed cells have an error; done ones all that a table needs."""

    version: Literal[1] = 1
    cell: Index
    started: str = ""
    code: Code = Code()
    environment: Environment
    status: Literal["done", "failed"]
    initial_weights: Name | None = None
    dataset: Data | None = None
    peak_memory_mb: JsonValue = None
    at_networks_rate: list[Name] = Field(default_factory=list)
    selections: dict[SelectionName, Selection] | None = None
    timing: Timing | None = None
    resumed: list[Count] = Field(default_factory=list)
    error: Failure | None = None
    total_s: Duration = 0.0
    files: dict[str, str] = Field(default_factory=dict)
    digest: str = ""

    @field_validator("started")
    @classmethod
    def _is_a_time(cls, started: str) -> str:
        if started and datetime.fromisoformat(started).timestamp() < 0:
            raise ValueError("a time before 1970")
        return started

    @model_validator(mode="after")
    def _is_whole(self) -> "Summary":
        needed = ["error"] if self.status == "failed" else ["started", "dataset", "selections", "timing"]
        if lacking := [name for name in needed if not getattr(self, name)]:
            raise ValueError(f"{self.status}, and no {lacking[0]}")
        if self.selections and "recall_at_1" not in getattr(self.selections.get("last"), "metrics", ()):
            raise ValueError("no recall_at_1 of the last epoch")
        return self

    @property
    def done(self) -> bool:
        """Whether the cell finished without failing."""
        return self.status == "done"

    @property
    def last(self) -> dict[str, float]:
        """Test metrics at the last epoch; none of a failed cell."""
        return self.selections["last"].metrics if self.selections else {}


def read_json(path: Path, what: str, hint: str) -> Any:  # noqa: ANN401 - any JSON
    """Read a JSON file of this package.

    Raises:
        FileNotFoundError: where there is none.
        UserError: for all else: one line that names the file; `what` it should be, and `hint`, what to do.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: not {what} (has more than {LARGEST >> 20} MiB)", hint=hint)
        return from_json(path.read_bytes(), allow_inf_nan=False)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", hint=hint) from error
    except ValueError as error:
        raise UserError(f"{path}: not {what} (damaged JSON: {str(error)[:SHOWN]})", hint=hint) from error


def in_one_line(error: ValidationError) -> str:
    """The first violation: its key and what is wrong, without the value, which can be of any length."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")[:SHOWN]
    message = in_words(first)[:SHOWN]
    return f"{key}: {message}" if key else message


@dataclass(frozen=True)
class Facts:
    """What a cell is made of, as the columns `INDEX` of a table have it.

    Attributes:
        overrides: What `--set` changed of the protocol.
        method: Its name, `BASE[+MODIFIER]`.
        base_settings: What `--set` changed of the loss.
        modifier: Its name; "" of a base.
        modifier_settings: What `--set` changed of the modifier.
        tuned: Whether its values are those of tuning.
        hash: Of the whole spec; the others are of the values of a part.
    """

    protocol: str
    overrides: Settings
    dataset: str
    method: str
    base: str
    base_settings: Settings
    modifier: str
    modifier_settings: Settings
    tuned: bool
    seed: int
    hash: str
    protocol_hash: str
    dataset_version: str
    method_hash: str
    base_hash: str
    modifier_hash: str


INDEX = tuple(field.name for field in fields(Facts))  # columns that say which cell a row is of
FILTERS = ("protocol", "dataset", "method")  # those by which `--only` chooses


def facts(cell: Cell) -> Facts:
    """What a cell is made of, from its spec."""
    method, index, changed = cell.method, cell.index(), changes(cell)
    return Facts(
        protocol=cell.protocol.name,
        overrides=changed.protocol,
        dataset=cell.dataset.label,
        method=method.name,
        base=method.base,
        base_settings=changed.loss,
        modifier=method.distillation.name if method.distillation else "",
        modifier_settings=changed.distillation,
        tuned=method.tuned is not None,
        seed=cell.seed,
        hash=cell.hash,
        protocol_hash=index["protocol_hash"],
        dataset_version=cell.dataset.version,
        method_hash=digest(method.identity()),
        base_hash=digest(method.loss.identity()),
        modifier_hash=digest(method.distillation.identity()) if method.distillation else "",
    )


def one_wording(found: Iterable[Facts]) -> list[Facts]:
    """The same with one wording for equal values: of those that results of one hash have, the shortest.

    Two results of one protocol, or of one method, are then of one group, however their settings were given: an older
    release wrote down what was typed, and a user's own file may have got the value that `--set` gave before.
    """
    shortest: dict[tuple[object, ...], Settings] = {}

    def by_hash(one: Facts) -> tuple[tuple[tuple[object, ...], Settings], ...]:
        group = (one.protocol_hash, one.dataset)
        base = (*group, one.base, one.base_hash, one.tuned)
        modifier = (*group, one.base, one.modifier, one.modifier_hash, one.tuned, "modifier")
        return (group, one.overrides), (base, one.base_settings), (modifier, one.modifier_settings)

    every = [(one, by_hash(one)) for one in found]
    for _, parts in every:
        for key, own in parts:
            shortest[key] = min(shortest.get(key, own), own, key=lambda settings: (len(settings.pairs), settings))
    return [
        replace(one, overrides=shortest[group], base_settings=shortest[base], modifier_settings=shortest[modifier])
        for one, ((group, _), (base, _), (modifier, _)) in every
    ]
