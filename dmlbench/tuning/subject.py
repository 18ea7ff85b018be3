"""What is tuned, and the cells of its trials: ordinary ones, tested on held-out training classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dmlbench.data.catalogue import family_of
from dmlbench.data.family import Log
from dmlbench.errors import UserError
from dmlbench.runner import matrix
from dmlbench.specs.cell import Cell, MethodSpec, ProtocolSpec, Scalar, digest, protocol_identity
from dmlbench.specs.dataset import DatasetSpec
from dmlbench.specs.method import Search
from dmlbench.specs.protocol import METHOD_SECTIONS
from dmlbench.specs.registry import MethodSettings, Registry
from dmlbench.tuning.study import SEED

HELD_OUT = 0.2  # of the training classes, where the protocol holds out none itself


@dataclass(frozen=True)
class TuningRequest:
    """What the user asked for, as typed."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: int = 1
    protocol: str | None = None
    settings: tuple[str, ...] = ()
    methods_dir: Path | None = None
    data_dir: Path | None = None
    skip_bad: bool = False


@dataclass(frozen=True)
class Subject:
    """What is tuned: a method as its files give it, on a dataset under a protocol.

    A trial trains on the training classes but for a part, and is scored on that part at its last epoch.
    """

    method: MethodSpec
    dataset: DatasetSpec
    protocol: ProtocolSpec
    searches: dict[str, Search]
    seeds: tuple[int, ...]
    registry: Registry
    overrides: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.method.name} on {self.dataset.name}"

    @property
    def held_out(self) -> float:
        """Fraction of the training classes that trials are scored on."""
        return self.protocol.validation.classes or HELD_OUT

    @property
    def trial_dataset(self) -> DatasetSpec:
        """The dataset, tested on training classes."""
        return self.dataset.model_copy(update={"held_out": self.held_out})

    @property
    def trial_protocol(self) -> ProtocolSpec:
        """The protocol, scored once, at its end; what it holds out is the test side of a trial already."""
        protocol = self.protocol
        evaluation = protocol.evaluation.model_copy(update={"every": protocol.training.epochs, "clustering": "last"})
        validation = protocol.validation.model_copy(update={"classes": 0.0})
        return protocol.model_copy(update={"evaluation": evaluation, "validation": validation})

    @property
    def study_name(self) -> str:
        """Its study's: another method, dataset, protocol, range or seed is another study."""
        identity = {
            "method": self.method.identity(),
            "dataset": self.trial_dataset.identity(),
            "protocol": protocol_identity(self.trial_protocol),
            "search": {key: search.model_dump(mode="json") for key, search in self.searches.items()},
            "seeds": self.seeds,
        }
        return f"{self.protocol.name}/{self.dataset.name}/{self.method.name}/{digest(identity)[:8]}"

    def values(self) -> dict[str, Scalar]:
        """The files' own values of what is searched."""
        parts = {"loss": self.method.loss, "distillation": self.method.distillation}
        keys = {key: key.partition(".") for key in self.searches}
        return {key: part.values()[name] for key, (kind, _, name) in keys.items() if (part := parts[kind])}

    def cells(self, number: int, values: Mapping[str, Scalar]) -> list[Cell]:
        """A trial's trainings, one a seed."""
        own = {
            kind: {k.partition(".")[2]: v for k, v in values.items() if k.startswith(kind)} for kind in METHOD_SECTIONS
        }
        source, where = f"trial {number + 1} of tuning", f"{self.label}, search of"
        settings = MethodSettings(own["loss"], own["distillation"], source, where)
        method = self.registry.resolve(
            self.method.name, self.dataset.name, self.protocol.name, settings, family=self.protocol.family
        )
        changed = tuple(sorted((*self.overrides, *(f"{key}={value}" for key, value in values.items()))))
        return [Cell(method, self.trial_dataset, self.trial_protocol, seed, changed) for seed in self.seeds]


def plan_tuning(request: TuningRequest, log: Log) -> list[Subject]:
    """Resolve what is to be tuned; data are found and read where their contents are their version.

    Raises:
        UserError: for any name or setting that is not valid, or a method that has nothing to search.
    """
    if own := [setting for setting in request.settings if setting.startswith(METHOD_SECTIONS)]:
        raise UserError(f"--set {own[0]}: tuning chooses the values of methods", hint="--set takes the protocol's here")
    plain = matrix.Request(
        request.methods, request.datasets, (0,), request.protocol, request.settings, request.methods_dir,
        request.data_dir, request.skip_bad,
    )  # fmt: skip
    registry, seeds = Registry(request.methods_dir), tuple(range(SEED, SEED + request.seeds))
    for name in request.methods:
        if not registry.searches(name):
            raise UserError(
                f"{name}: none of its values has a search range, so every trial would be the same",
                hint="give one `search: {low: ..., high: ...}` in its file; see docs/plugins.md",
            )
    subjects = [
        Subject(
            cell.method, cell.dataset, cell.protocol, registry.searches(cell.method.name), seeds, registry,
            cell.overrides,
        )
        for cell in matrix.plan(plain, log)
    ]  # fmt: skip
    for subject in subjects:
        _check_values(subject)
        _check_classes(subject, request.data_dir)
    return subjects


def _check_values(subject: Subject) -> None:
    """The files' values are within their ranges, and the class accepts both ends of each, also in a pinned file."""
    own = subject.values()
    for key, value in own.items():
        if not subject.searches[key].holds(value):
            raise UserError(
                f"{subject.label}: {key}: its search ({subject.searches[key]}) does not hold {value}, the value of its "
                "file, which the first trial takes",
                hint="widen the search in the file",
            )
        for end in subject.searches[key].ends():
            subject.cells(0, own | {key: end})


def _check_classes(subject: Subject, data_dir: Path | None) -> None:
    """A folder of the user's may have too few training classes for some to be held out; published sets have not."""
    if subject.dataset.root is None:
        return
    train, _ = family_of(subject.dataset).read(data_dir, lambda _: None)
    count = len(train.class_names)
    held_out = max(2, round(subject.held_out * count))
    if count - held_out < 2:
        raise UserError(
            f"{subject.dataset.name}: its {count} training classes are too few for tuning, which holds out {held_out} "
            "of them and trains on two at least",
            hint="train on more classes, or hold out fewer with --set validation.classes=FRACTION",
        )
