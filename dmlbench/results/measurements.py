"""Measured costs of training steps: `overhead/` of a results folder, a JSON file a measurement."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from dmlbench.atomic import write_atomically
from dmlbench.errors import OnDamaged, UserError, attempt, sound, warn
from dmlbench.results.records import SHOWN, Code, Environment, in_one_line, read_json
from dmlbench.specs.cell import digest

FOLDER = "overhead"
SYNTHETIC = "synthetic"  # in place of a dataset's name
VERSION = 2
MOST = 1e12  # of anything that is counted or timed
UNFOLDED = "{unfolded}"  # after a name: its teacher's BatchNorm stays a layer of its own
UNFOLDED_MARK = "teacher's BatchNorm not folded"  # with the official mode, `train`, this is the official code's teacher
MOVE = "move it away; `dmlbench overhead` measures again"


@dataclass(frozen=True)
class Measured:
    """One method's part of a measurement: milliseconds a step, a value per round, in all and by phase.

    The rounds of the first process come first, then those of the second, and so on.
    """

    base: str
    modifier: str
    marks: tuple[str, ...]
    step_ms: tuple[float, ...]
    phases_ms: dict[str, tuple[float, ...]]
    peak_mb: float
    gflop: float

    @property
    def modifier_name(self) -> str:
        """The modifier, whether its teacher is folded or not."""
        return self.modifier.removesuffix(UNFOLDED)


@dataclass(frozen=True)
class Measurement:
    """What the steps of several methods cost, measured interleaved in each of several processes on one machine.

    Attributes:
        started: ISO 8601, in UTC.
        variant: What `--set` changed of the protocol, or "".
        dataset: A name, or `synthetic`.
        epochs: Of the protocol: a teacher acts in all but the first.
        rounds: How many of each process count.
        methods: By name; the n-th values of all are of one round.
    """

    started: str
    command: str
    protocol: str
    variant: str
    protocol_hash: str
    dataset: str
    epochs: int
    batch_size: int
    cpu_threads: int
    environment: Environment
    code: Code
    processes: int
    rounds: int
    methods: dict[str, Measured]

    @property
    def device(self) -> str:
        """The GPU's or the processor's name, for people."""
        return self.environment.gpu or self.environment.cpu or "unknown device"

    @property
    def title(self) -> str:
        """For people: what was measured where."""
        return f"{self.protocol}{', ' + self.variant if self.variant else ''}, {self.dataset}, on {self.device}"

    @property
    def how(self) -> str:
        """For people: what its estimates and intervals are."""
        if self.processes == 1:
            return f"medians of {self.rounds} rounds of one process [95% bootstrap interval over rounds]"
        return (
            f"geometric means of {self.processes} processes' medians of {self.rounds} rounds [95% t-interval over "
            "processes]"
        )


def write_measurement(root: Path, measurement: Measurement) -> Path:
    """Write a measurement into the results folder, under a name of its own.

    Raises:
        UserError: where that is not possible.
    """
    folder = root / FOLDER
    day = re.sub(r"\D", "", measurement.started)[:14]
    parts = (measurement.protocol, measurement.dataset, measurement.device, day)
    stem = "_".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts)
    environment = measurement.environment.as_json()
    kind = digest([measurement.variant, measurement.protocol_hash, environment, [*measurement.methods]])
    path = folder / f"{stem}_{kind[:6]}.json"
    content = TypeAdapter(Measurement).dump_python(measurement, mode="json", by_alias=True, exclude_unset=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(_rounded({"version": VERSION, **content}), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})", hint="name another --results") from error
    return path


def read_measurements(roots: Iterable[Path], damaged: OnDamaged = warn) -> list[Measurement]:
    """Every measurement of results folders, the oldest first; one that several hold is there once.

    Files that are no measurement, or of a version this dmlbench does not know, are left out and go to `damaged`.
    """
    paths = [path for root in roots for path in sorted((root / FOLDER).glob("*.json"))]
    found: list[Measurement] = []
    for measurement in sound((attempt(_read, path) for path in paths), damaged):
        found += [measurement] if measurement not in found else []
    return sorted(found, key=lambda measurement: _time(measurement.started))


def _read(path: Path) -> Measurement:
    try:
        content = read_json(path, "a readable measurement", MOVE)
    except FileNotFoundError as error:  # gone since it was listed, or a link to nothing
        raise UserError(f"{path}: cannot be read (no such file)", hint=MOVE) from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        known = f"measurement version {str(version)[:20]} is not known here (known: {VERSION})"
        raise UserError(f"{path}: {known}", hint=MOVE)
    try:
        # By way of JSON, in which a list is a tuple also where types are strict.
        measurement = TypeAdapter(Measurement).validate_json(to_json(content), strict=True)
        _check(measurement)
    except (ValueError, OverflowError) as error:
        reason = in_one_line(error) if isinstance(error, ValidationError) else str(error)[:SHOWN]
        raise UserError(f"{path}: not a readable measurement ({reason})", hint=MOVE) from error
    return measurement


def _time(started: str) -> float:
    return datetime.fromisoformat(started).timestamp()


def _check(measurement: Measurement) -> None:
    """Raise ValueError where a report could not be made of it."""
    _time(measurement.started)
    counts = (measurement.processes, measurement.rounds, measurement.epochs, measurement.batch_size)
    if not all(1 <= count <= MOST for count in counts) or not measurement.methods:
        raise ValueError("no processes, rounds, epochs, images or methods, or too many")
    for name, method in measurement.methods.items():
        if method.base not in measurement.methods:
            raise ValueError(f"{name} without its base {method.base}")
        times = [method.step_ms, *method.phases_ms.values()]
        if any(len(values) != measurement.processes * measurement.rounds for values in times):
            raise ValueError(f"{name}: not a time for each of {measurement.processes} x {measurement.rounds} rounds")
        numbers = (*method.step_ms, method.peak_mb, method.gflop)
        if not all(0 < number <= MOST for number in numbers) or not all(
            0 <= number <= MOST for values in times for number in values
        ):
            raise ValueError(f"{name}: a time, size or count that is not positive, or too large")


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Numbers with seven significant digits."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
