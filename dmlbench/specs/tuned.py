"""`tuned.yaml`: the best values that tuning found, and where they come from. `run --tuned` takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import NonNegativeInt, PositiveInt, field_validator

from dmlbench.atomic import write_atomically
from dmlbench.errors import UserError, unknown_name
from dmlbench.specs.cell import MethodSpec, ProtocolSpec, Scalar, digest, protocol_identity
from dmlbench.specs.dataset import DatasetSpec, Section
from dmlbench.specs.method import Search
from dmlbench.specs.protocol import METHOD_SECTIONS
from dmlbench.specs.registry import MethodSettings
from dmlbench.specs.yaml_files import Dumper, read_yaml, validate

FOLDER, FILE = "tuning", "tuned.yaml"  # of the results folder
TRIALS = "trials"  # of that folder: the cells of all studies


class Tuned(Section):
    """What tuning found for one method on one dataset under one protocol.

    Attributes:
        values: The best trial's, by `loss.NAME` and `distillation.NAME`.
        trials: How many there were; the first took the values of the method's files.
        best: Number of the best trial, from 0.
        recall_at_1: Its R@1 on the held-out training classes, a fraction, mean over `seeds`.
        recall_at_1_of_files: That of the first trial; None where it diverged.
        runner_up: That of the best other trial; None where no other had one, or it was not recorded.
        queries: Held-out images that R@1 counts; None where that was not recorded.
        dataset_version, protocol_hash, method_hash: What was tuned; of anything else nothing is known.
        held_out: Fraction of the training classes that were tested on.
        seeds: Of each trial.
        search: Where values were looked for.
        optuna, code, device: What searched and what trained: each that any of the trials was made with.
        command: The last command line.
    """

    method: str
    dataset: str
    protocol: str
    values: dict[str, Scalar]
    trials: PositiveInt
    best: NonNegativeInt
    recall_at_1: float
    recall_at_1_of_files: float | None
    runner_up: float | None = None
    queries: PositiveInt | None = None
    dataset_version: str
    protocol_hash: str
    method_hash: str
    held_out: float
    seeds: tuple[int, ...]
    search: dict[str, Search]
    optuna: tuple[str, ...]
    code: tuple[str, ...]
    device: tuple[str, ...]
    command: str

    @field_validator("values")
    @classmethod
    def _of_parts(cls, values: dict[str, Scalar]) -> dict[str, Scalar]:
        if wrong := [
            key for key in values if key.partition(".")[0] not in METHOD_SECTIONS or not key.partition(".")[2]
        ]:
            raise ValueError(f"{wrong[0]!r} must be loss.NAME or distillation.NAME")
        return values

    @property
    def margin(self) -> str:
        """By how much the best trial won, such as `0.19 points, 1 of 540 queries`; empty where it was not recorded."""
        if self.runner_up is None:
            return ""
        won = self.recall_at_1 - self.runner_up
        points = f"{100 * won:.2f} points"
        if self.queries is None:
            return points
        count = f"{won * self.queries:.1f}".removesuffix(".0")  # a mean over seeds or networks need not be whole
        return f"{points}, {count} of {self.queries:,} queries"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies an entry: a file holds one for each key."""
        return self.protocol, self.dataset, self.method, self.protocol_hash


class TunedFile(Section):
    """The overlay as a whole."""

    version: Literal[1] = 1
    entries: tuple[Tuned, ...] = ()


def default_path(results: Path) -> Path:
    """Where tuning writes the overlay of a results folder."""
    return results / FOLDER / FILE


def identity_of(method: MethodSpec, dataset: DatasetSpec, protocol: ProtocolSpec) -> dict[str, str]:
    """What tuned values hold for: contents, protocol but for what it measures, and the method as its files give it."""
    trained = {key: value for key, value in protocol_identity(protocol).items() if key != "evaluation"}
    return {
        "dataset_version": dataset.version,
        "protocol_hash": digest(trained),
        "method_hash": digest(method.identity()),
    }


def read_tuned(path: Path) -> TunedFile:
    """Read an overlay; raises UserError where there is none, or none of this version."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file", hint="`dmlbench tune` with the same --results writes it; or name one: --tuned FILE"
        )
    return validate(TunedFile, read_yaml(path), str(path))


def write_tuned(path: Path, entries: Sequence[Tuned]) -> None:
    """Write entries into an overlay, replacing those for the same method, dataset and protocol."""
    before = read_tuned(path).entries if path.is_file() else ()
    merged = {entry.key: entry for entry in (*before, *entries)}
    file = TunedFile(entries=tuple(merged[key] for key in sorted(merged)))
    content = {"version": file.version} | file.model_dump(mode="json", exclude_defaults=True)
    head = "# Written by `dmlbench tune`, used by `dmlbench run --tuned`: the best of each method's trials on\n"
    head += "# held-out training classes. The test classes took no part.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, head + yaml.dump(content, Dumper=Dumper, sort_keys=False, width=120))


def settings_of(path: Path, method: MethodSpec, dataset: DatasetSpec, protocol: ProtocolSpec) -> MethodSettings:
    """The tuned values of a method as its files resolve it.

    Raises:
        UserError: where the overlay has none, or they were found for something else.
    """
    entry = _entry(path, method, dataset, protocol)
    parts = {"loss": method.loss, "distillation": method.distillation}
    sections: dict[str, dict[str, Scalar]] = {kind: {} for kind in METHOD_SECTIONS}
    for key, value in entry.values.items():
        kind, _, name = key.partition(".")
        part = parts[kind]
        if part is None or name not in part.parameters:
            known = [f"{own.kind}.{known}" for own in parts.values() if own for known in own.parameters]
            raise unknown_name("value", key, known, where=f"{path}: {method.name} on {dataset.name}")
        sections[kind][name] = value
    score = f"{100 * entry.recall_at_1:.1f}% R@1 on held-out training classes"
    margin = f", {entry.margin} above the next trial" if entry.margin else ""
    found = f"tuned: trial {entry.best + 1} of {entry.trials}, {score}{margin}"
    where = f"{path}: {method.name} on {dataset.name}:"
    return MethodSettings(sections["loss"], sections["distillation"], found, where, entry.trials, len(entry.seeds))


def _entry(path: Path, method: MethodSpec, dataset: DatasetSpec, protocol: ProtocolSpec) -> Tuned:
    named = f"{dataset.name}=FOLDER" if dataset.root else dataset.name
    again = f"`dmlbench tune --methods {method.name} --datasets {named} --trials N`, with the same other options"
    names, identity = (protocol.name, dataset.name, method.name), identity_of(method, dataset, protocol)
    found = [entry for entry in read_tuned(path).entries if entry.key[:3] == names]
    if not found:
        raise UserError(f"{path}: no entry for {method.name} on {dataset.name} under {protocol.name}", hint=again)
    found.sort(key=lambda entry: entry.protocol_hash == identity["protocol_hash"])
    entry = found[-1]
    words = {
        "dataset_version": "other images",
        "protocol_hash": "another protocol",
        "method_hash": "another method file",
    }
    for key, now in identity.items():
        if (then := getattr(entry, key)) != now:
            options = f"give the options of `{entry.command}`, or " if key == "protocol_hash" else ""
            raise UserError(
                f"{path}: {method.name} on {dataset.name}: {key}: was tuned with {words[key]} ({then}, now {now})",
                hint=options + again,
            )
    return entry
