"""What `summary.json` holds: the one boundary at which a result of another machine or release is looked at.

Keys that are not named here are kept and never used. Types are strict and numbers bounded, so that nothing that reads
a result has to ask again.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from dmlbench.errors import UserError

VERSION = 1
LARGEST = 2**26  # bytes of a JSON file: the largest results have less than a hundredth of it
SHOWN = 80  # characters of a name that an error quotes
INDEX = ("protocol", "variant", "dataset", "method", "base", "modifier", "seed")
# Columns of a table of results beside INDEX and the metrics, whose names they therefore cannot have.
COLUMNS = (
    "hash", "status", "selection", "readout", "networks", "marks", "folder", "step_ms", "train_seconds", "machine",
    "origin", "kind", "epoch", "error",
)  # fmt: skip

Name = Annotated[str, Field(min_length=1, max_length=300)]
Text = Annotated[str, Field(max_length=20_000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Ge(0), Le(10**12)]
Value = Annotated[float, Ge(-1e12), Le(1e12)]
Duration = Annotated[float, Ge(0), Le(1e10)]
Metric = Annotated[str, Field(pattern=r"^((member[1-9][0-9]{0,3}|ensemble)/)?[a-z][a-z0-9_]{0,99}$")]
SelectionName = Literal["untrained", "last", "validation", "best_test"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)


class Index(_Part):
    """The cell's place in tables: `Cell.index`."""

    hash: Digest
    protocol: Name
    variant: Text
    dataset: Name
    method: Name
    base: Name
    modifier: Annotated[str, Field(max_length=300)]
    seed: Annotated[int, Ge(0), Le(2**63 - 1)]
    marks: list[Text]
    protocol_hash: Digest


class Code(_Part):
    """State of the training code."""

    digest: Text = ""
    commit: Text = ""
    dirty: bool = False


class Environment(_Part):
    """The machine, its load and its libraries; empty where the cell failed before it was known."""

    machine: Text | None = None
    device: Text | None = None
    gpu: Text | None = None
    cpu: Text | None = None
    processes: Annotated[int, Ge(1), Le(10**6)] | None = None
    data_workers: Annotated[int, Ge(0), Le(10**6)] | None = None
    system_metrics: int | bool | None = None


class Data(_Part):
    """What was trained and tested on."""

    name: Name
    version: Text
    fingerprint: Name
    skipped: list[Text] = Field(default_factory=list)
    train_images: Count = 0
    train_classes: Count = 0
    test_images: Count = 0
    test_classes: Count = 0


class Selection(_Part):
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
        readouts = {name.partition("/")[0] for name in self.metrics if "/" in name}
        if readouts and not {"member1", "ensemble"} <= readouts:
            raise ValueError("networks without the first of them, or without their ensemble")
        return self


class Timing(_Part):
    """What the training cost."""

    step_ms: Annotated[float, Gt(0), Le(1e10)]
    train_s: Duration
    evaluation_s: Duration = 0.0
    phases: dict[str, Duration] = Field(default_factory=dict)


class Failure(_Part):
    """Why a cell failed."""

    kind: Name
    message: Text
    log: list[Text] = Field(default_factory=list)


class Summary(_Part):
    """A result. Failed cells have an error; done ones all that a table needs."""

    version: Literal[1]
    status: Literal["done", "failed"]
    cell: Index
    environment: Environment
    code: Code = Code()
    started: str = ""
    total_s: Duration = 0.0
    resumed: list[Count] = Field(default_factory=list)
    initial_weights: Name | None = None
    at_networks_rate: list[Name] = Field(default_factory=list)
    dataset: Data | None = None
    selections: dict[SelectionName, Selection] | None = None
    timing: Timing | None = None
    error: Failure | None = None
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
        if self.status == "failed":
            needed: tuple[str, ...] = ("error",)
        else:
            needed = ("started", "dataset", "selections", "timing")
        if lacking := [name for name in needed if not getattr(self, name)]:
            raise ValueError(f"{self.status}, and no {lacking[0]}")
        if self.selections and "recall_at_1" not in getattr(self.selections.get("last"), "metrics", ()):
            raise ValueError("no recall_at_1 of the last epoch")
        return self


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
    message = first["msg"].removeprefix("Value error, ")[:SHOWN]
    return f"{key}: {message}" if key else message
