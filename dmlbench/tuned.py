"""`tuned.yaml`: the best values that tuning found, and where they come from. `run --tuned` takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import NonNegativeInt, PositiveInt

from dmlbench.atomic import write_atomically
from dmlbench.dataset_spec import Section
from dmlbench.errors import UserError
from dmlbench.method_file import Search
from dmlbench.registry import MethodSettings
from dmlbench.schema import read_yaml, validate
from dmlbench.spec import DatasetSpec, MethodSpec, ProtocolSpec, Scalar, digest, protocol_identity

FOLDER, FILE = "tuning", "tuned.yaml"  # of the results folder


class Tuned(Section):
    """What tuning found for one method on one dataset under one protocol.

    Attributes:
        values: The best trial's, by `loss.NAME` and `distillation.NAME`.
        trials: How many there were; the first took the values of the method's files.
        best: Number of the best trial, from 0.
        recall_at_1: Its R@1 on the held-out training classes, a fraction, mean over `seeds`.
        recall_at_1_of_files: That of the first trial; None where it diverged.
        dataset_version, protocol_hash, method_hash: What was tuned; of anything else nothing is known.
        held_out: Fraction of the training classes that were tested on.
        seeds: Of each trial.
        search: Where values were looked for.
        optuna, code, commit, cpu, command: What searched, and what trained.
    """

    method: str
    dataset: str
    protocol: str
    values: dict[str, Scalar]
    trials: PositiveInt
    best: NonNegativeInt
    recall_at_1: float
    recall_at_1_of_files: float | None
    dataset_version: str
    protocol_hash: str
    method_hash: str
    held_out: float
    seeds: tuple[int, ...]
    search: dict[str, Search]
    optuna: str
    code: str
    commit: str | None = None
    device: str
    command: str

    @property
    def place(self) -> tuple[str, str, str]:
        """Of each place a file holds one entry."""
        return self.protocol, self.dataset, self.method


class TunedFile(Section):
    """The overlay as a whole."""

    version: Literal[1] = 1
    entries: tuple[Tuned, ...] = ()


def default_path(results: Path) -> Path:
    """Where tuning writes the overlay of a results folder."""
    return results / FOLDER / FILE


def identity_of(method: MethodSpec, dataset: DatasetSpec, protocol: ProtocolSpec) -> dict[str, str]:
    """What tuned values hold for: contents, protocol, and the method as its files give it."""
    return {
        "dataset_version": dataset.version,
        "protocol_hash": digest(protocol_identity(protocol)),
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
    """Write entries into an overlay, in the place of those that it has for the same method, dataset and protocol."""
    before = read_tuned(path).entries if path.is_file() else ()
    merged = {entry.place: entry for entry in (*before, *entries)}
    file = TunedFile(entries=tuple(merged[place] for place in sorted(merged)))
    content = {"version": file.version} | file.model_dump(mode="json", exclude_defaults=True)
    head = "# Written by `dmlbench tune`, used by `dmlbench run --tuned`: the best of each method's trials on\n"
    head += "# held-out training classes. The test classes were not looked at.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, head + yaml.safe_dump(content, sort_keys=False, width=120))


def settings_of(path: Path, method: MethodSpec, dataset: DatasetSpec, protocol: ProtocolSpec) -> MethodSettings:
    """The tuned values of a method as its files resolve it.

    Raises:
        UserError: where the overlay has none, or they were found for something else.
    """
    again = f"dmlbench tune --methods {method.name} --datasets {dataset.name} --trials N"
    place = (protocol.name, dataset.name, method.name)
    entry = next((entry for entry in read_tuned(path).entries if entry.place == place), None)
    if entry is None:
        raise UserError(f"{path}: no entry for {method.name} on {dataset.name} under {protocol.name}", hint=again)
    words = {
        "dataset_version": "other images",
        "protocol_hash": "another protocol",
        "method_hash": "another method file",
    }
    for key, now in identity_of(method, dataset, protocol).items():
        if (then := getattr(entry, key)) != now:
            raise UserError(
                f"{path}: {method.name} on {dataset.name}: {key}: was tuned with {words[key]} ({then}, now {now})",
                hint=again,
            )
    sections: dict[str, dict[str, Scalar]] = {"loss": {}, "distillation": {}}
    for key, value in entry.values.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    found = (
        f"tuned: trial {entry.best} of {entry.trials}, {100 * entry.recall_at_1:.1f}% R@1 on held-out training classes"
    )
    return MethodSettings(sections["loss"], sections["distillation"], found, entry.trials)
