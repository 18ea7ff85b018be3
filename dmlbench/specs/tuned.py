"""`tuned.yaml`: the values that tuning chose, and where they come from. `run --tuned` takes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, field_validator, model_validator

from dmlbench.atomic import write_atomically
from dmlbench.errors import UserError, counted, unknown_name
from dmlbench.specs.cell import MethodSpec, digest
from dmlbench.specs.dataset import DatasetSpec, Section
from dmlbench.specs.method import Search
from dmlbench.specs.protocol import METHOD_SECTIONS
from dmlbench.specs.protocol_spec import ProtocolSpec, Scalar, protocol_identity
from dmlbench.specs.registry import MethodSettings, searched_mark
from dmlbench.specs.yaml_files import dump, read_yaml, validate

FOLDER, FILE = "tuning", "tuned.yaml"  # of the results folder
TRIALS = "trials"  # of that folder: the cells of all studies
HEAD = """\
# Written by `dmlbench tune`, used by `dmlbench run --tuned`: values chosen by MAP@R in class-disjoint folds of the
# training classes. The test classes took no part. map_at_r and recall_at_1 have one score for each pair of the stage
# `final`: the number of a fold, and a seed.
"""


class Margin(Section):
    """A paired mean difference in MAP@R, a fraction, over (fold, seed) pairs, and its standard error."""

    difference: float
    standard_error: float
    pairs: PositiveInt

    def __str__(self) -> str:
        points = f"{100 * self.difference:+.2f}".replace("-", "−")
        return f"{points} ± {100 * self.standard_error:.2f} points MAP@R"


class Finalist(Section):
    """Values of the last stage, with MAP@R and R@1 of each (fold, seed) pair; none where a training diverged."""

    values: dict[str, Scalar]
    map_at_r: tuple[float, ...]
    recall_at_1: tuple[float, ...]

    @model_validator(mode="after")
    def _of_the_same_pairs(self) -> "Finalist":
        if len(self.map_at_r) != len(self.recall_at_1):
            raise ValueError("map_at_r and recall_at_1 need a value for each pair")
        return self

    def is_of(self, method: MethodSpec) -> bool:
        """Whether a method has its values."""
        return self.values.items() <= method.searchable().items()


class StageRecord(Section):
    """A stage of a search: so many configurations were trained for so many epochs, on each (fold, seed) pair."""

    stage: str
    configurations: PositiveInt
    epochs: PositiveInt
    pairs: tuple[tuple[NonNegativeInt, NonNegativeInt], ...]
    partition: NonNegativeInt = 0


class Tuned(Section):
    """What tuning found for one method on one dataset under one protocol, by MAP@R in folds of the training classes.

    Attributes:
        values: What it chose, by `loss.NAME`, `loss.learning_rates.NAME` and `distillation.NAME`.
        dataset_version, protocol_hash, method_hash: What was tuned; of anything else nothing is known.
        search: Where values were looked for.
        code, device: What trained: each that any of the trials was made with.
        command: The last command line.
        study_seed: Which study; it draws values, folds and the trainings' seeds.
        stayed: Whether the files' values stayed, because no finalist was better by more than one standard error.
        over_files: The chosen values minus the files'; None where these stayed or diverged.
        over_runner_up: The chosen values minus those of the best other finalist; None where there is none.
        finalists: The last stage, the files' values first; empty where nothing was searched.
        folds: How many.
        budget: Epochs of training that the search was given, the same for every method.
        epochs: Epochs that it took.
        schedule: What was trained.
    """

    method: str
    dataset: str
    protocol: str
    values: dict[str, Scalar]
    dataset_version: str
    protocol_hash: str
    method_hash: str
    search: dict[str, Search]
    code: tuple[str, ...]
    device: tuple[str, ...]
    command: str
    study_seed: NonNegativeInt
    stayed: bool
    over_files: Margin | None = None
    over_runner_up: Margin | None = None
    finalists: tuple[Finalist, ...]
    folds: PositiveInt
    budget: PositiveInt
    epochs: NonNegativeInt
    schedule: tuple[StageRecord, ...]

    @field_validator("values")
    @classmethod
    def _of_parts(cls, values: dict[str, Scalar]) -> dict[str, Scalar]:
        if wrong := [
            key for key in values if key.partition(".")[0] not in METHOD_SECTIONS or not key.partition(".")[2]
        ]:
            raise ValueError(f"{wrong[0]!r} must be loss.NAME or distillation.NAME")
        return values

    @property
    def names(self) -> tuple[str, str, str]:
        """Protocol, dataset and method."""
        return self.protocol, self.dataset, self.method

    def is_of(self, identity: dict[str, str]) -> bool:
        """Whether it was found on the images and under the protocol of `identity_of`."""
        return (self.dataset_version, self.protocol_hash) == (identity["dataset_version"], identity["protocol_hash"])

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What identifies an entry: a file holds one for each key."""
        return *self.names, self.protocol_hash, self.study_seed

    @property
    def margin(self) -> str:
        """By how much its values were chosen, in words."""
        if not self.finalists:
            return "nothing of its own to search"
        if not self.stayed:
            if self.over_files is None:
                return "the files' values diverged"
            return f"{self.over_files} over the files' values, {counted(self.over_files.pairs, 'pair')}"
        if self.over_runner_up is None:
            return "files' values stay, no other finalist"
        other = self.over_runner_up.model_copy(update={"difference": -self.over_runner_up.difference})
        return f"files' values stay; the best other {other}, {counted(other.pairs, 'pair')}"

    @property
    def choice(self) -> str:
        """What the search chose, in words; a modified method has its base's values besides."""
        return self.searched(self)

    def searched(self, of: "Tuned | Finalist") -> str:
        """The values that were searched, in words."""
        return in_words({key: value for key, value in of.values.items() if key in self.search})

    def without_scores(self) -> Finalist:
        """Its values as a finalist of no stage."""
        return Finalist(values=self.values, map_at_r=(), recall_at_1=())

    @property
    def decided(self) -> int:
        """How many folds the finalists were scored on."""
        return len({fold for fold, _ in self.schedule[-1].pairs}) if self.schedule else self.folds

    @property
    def source(self) -> str:
        """Where its values come from."""
        study = f", study {self.study_seed}" if self.study_seed else ""
        return f"tuned with {self.budget} epochs, on {self.decided} folds of the training classes{study}: {self.margin}"

    def settings(self, sections: dict[str, dict[str, Scalar]], where: str) -> MethodSettings:
        """Its values, by `sections`, as settings of a method."""
        mark = searched_mark(self.budget, self.decided)
        return MethodSettings(
            sections["loss"], sections["distillation"], self.source, where, tuned=self.budget, mark=mark
        )


class TunedFile(Section):
    """The overlay as a whole."""

    version: Literal[2] = 2
    entries: tuple[Tuned, ...] = ()


def in_words(values: Mapping[str, Scalar]) -> str:
    """Searched values as tables name them, without their part."""
    return ", ".join(f"{key.partition('.')[2]}={value}" for key, value in values.items())


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
    """Read an overlay; raises UserError where there is none, or none of a known version."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file", hint="`dmlbench tune` with the same --results writes it; or name one: --tuned FILE"
        )
    content = read_yaml(path)
    known = TunedFile().version
    if (version := content.get("version")) != known:
        hint = "use the dmlbench that wrote it, or move the file away and run `dmlbench tune`"
        raise UserError(f"{path}: version: must be {known}, not {version!r}", hint=hint)
    return validate(TunedFile, content, str(path))


def read_own(path: Path) -> tuple[Tuned, ...]:
    """The entries of an overlay that tuning may add to, none where there is no file; raises as `read_tuned`."""
    return read_tuned(path).entries if path.is_file() else ()


def write_tuned(path: Path, entries: Sequence[Tuned]) -> None:
    """Write entries into an overlay, replacing those for the same method, dataset, protocol and study."""
    merged = {entry.key: entry for entry in (*read_own(path), *entries)}
    file = TunedFile(entries=tuple(merged[key] for key in sorted(merged)))
    found = [entry.model_dump(mode="json", exclude_defaults=True) for entry in file.entries]
    last = ("search", "dataset_version", "protocol_hash", "method_hash", "code", "device", "command")
    ordered = [{key: own[key] for key in sorted(own, key=lambda key: (key in last, 0))} for own in found]
    content = {"version": file.version, "entries": ordered}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, HEAD + dump(content, width=120))


def settings_of(path: Path, method: MethodSpec, dataset: DatasetSpec, protocol: ProtocolSpec) -> MethodSettings:
    """The tuned values of a method as its files resolve it.

    Raises:
        UserError: where the overlay has none, or they were found for something else.
    """
    entry = _entry(path, method, dataset, protocol)
    known = method.searchable()
    sections: dict[str, dict[str, Scalar]] = {kind: {} for kind in METHOD_SECTIONS}
    for key, value in entry.values.items():
        kind, _, name = key.partition(".")
        if key not in known:
            raise unknown_name("value", key, known, where=f"{path}: {method.name} on {dataset.name}")
        sections[kind][name] = value
    return entry.settings(sections, f"{path}: {method.name} on {dataset.name}:")


def _entry(path: Path, method: MethodSpec, dataset: DatasetSpec, protocol: ProtocolSpec) -> Tuned:
    """The entry of a method; of several studies the first."""
    again = (
        f"`dmlbench tune --methods {method.name} --datasets {dataset.typed} --epochs N`, with the same other options"
    )
    names, identity = (protocol.name, dataset.name, method.name), identity_of(method, dataset, protocol)
    entries = read_tuned(path).entries
    found = [entry for entry in entries if entry.names == names]
    if not found:
        raise UserError(f"{path}: no entry for {method.name} on {dataset.name} under {protocol.name}", hint=again)
    entry = max(found, key=lambda entry: (entry.protocol_hash == identity["protocol_hash"], -entry.study_seed))
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
    if method.distillation:
        _check_base(path, entry, entries, method.base, again)
    return entry


def _check_base(path: Path, entry: Tuned, entries: Sequence[Tuned], base: str, again: str) -> None:
    """A modifier was tuned on its base's values: with others the pair would differ by more than the modifier.

    What counts is the entry that a run of the base takes, whichever study it is of.
    """
    own = {key: value for key, value in entry.values.items() if key.startswith("loss.")}
    names = (entry.protocol, entry.dataset, base, entry.protocol_hash)
    found = min(
        (other for other in entries if other.key[:-1] == names), key=lambda other: other.study_seed, default=None
    )
    if found and found.values != own:
        study = f" in study {found.study_seed}" if found.study_seed != entry.study_seed else ""
        said = f"was tuned on other values of {base} than {base} has there{study}"
        raise UserError(f"{path}: {entry.method} on {entry.dataset}: {said}", hint=again)
