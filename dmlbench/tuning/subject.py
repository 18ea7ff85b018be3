"""What is tuned, and the cells of its search: ordinary ones, tested on a fold of the training classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dmlbench.data.catalogue import DATASETS, family_of
from dmlbench.data.family import Log
from dmlbench.data.folds import fold_mask
from dmlbench.data.samplers import check_batches
from dmlbench.errors import UserError
from dmlbench.runner import matrix
from dmlbench.specs.cell import RATE, Cell, MethodSpec, absolute_rate
from dmlbench.specs.dataset import DatasetSpec, Fold
from dmlbench.specs.method import Search
from dmlbench.specs.protocol import METHOD_SECTIONS
from dmlbench.specs.protocol_spec import ProtocolSpec, Scalar
from dmlbench.specs.registry import MethodSettings, Registry
from dmlbench.specs.tuned import Tuned, identity_of
from dmlbench.tuning.sampling import candidates
from dmlbench.tuning.schedule import FOLDS, Schedule, Stage, make_schedule

SEEDS = 1000  # of each study: reported runs count theirs from 0, and the first study its from here
EPOCHS = "training.epochs"


@dataclass(frozen=True)
class TuningRequest:
    """What the user asked for, as typed; `epochs` is the budget of each method on each dataset."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    epochs: int
    study_seed: int = 0
    protocol: str | None = None
    settings: tuple[str, ...] = ()
    methods_dir: Path | None = None
    data_dir: Path | None = None
    skip_bad: bool = False


@dataclass(frozen=True)
class Subject:
    """What is tuned: a method as its files give it, on a dataset under a protocol.

    Attributes:
        searches: Where values are looked for; of a modified method those of the modifier alone.
        schedule: What is trained.
        base_values: What the base's own search chose; None for a base, and where that search is still to be made.
        asked: Whether the user named it; a base that is tuned for a modified method need not be.
    """

    method: MethodSpec
    dataset: DatasetSpec
    protocol: ProtocolSpec
    searches: dict[str, Search]
    schedule: Schedule
    study_seed: int
    registry: Registry
    overrides: tuple[str, ...] = ()
    base_values: Mapping[str, Scalar] | None = None
    asked: bool = True

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.method.name} on {self.dataset.name}"

    @property
    def place(self) -> tuple[str, str, str]:
        """Dataset, protocol and base: a method with the same place and no modifier is the base."""
        return self.dataset.name, self.protocol.name, self.method.base

    def files(self) -> dict[str, Scalar]:
        """The files' own values of what is searched."""
        found = {key: self.method.searchable()[key] for key in self.searches}
        network = self.protocol.training.learning_rate
        return {key: absolute_rate(value, network) if RATE in key else value for key, value in found.items()}

    def candidates(self) -> list[dict[str, Scalar]]:
        """Other values, in the order in which they are tried."""
        count = self.schedule.stages[0].configurations
        return candidates(self.searches, self.files(), count, self.study_seed) if self.searches else []

    def cells(self, values: Mapping[str, Scalar], stage: Stage) -> list[Cell]:
        """The trainings of a configuration in a stage, one a pair of a fold and a seed."""
        whole = {**(self.base_values or {}), **values}
        own = {
            kind: {key.removeprefix(f"{kind}."): whole[key] for key in whole if key.startswith(f"{kind}.")}
            for kind in METHOD_SECTIONS
        }
        settings = MethodSettings(own["loss"], own["distillation"], "a trial of tuning", f"{self.label}, search of")
        method = self.registry.resolve(
            self.method.name, self.dataset.name, self.protocol.name, settings, family=self.protocol.family
        )
        kept = [own for own in self.overrides if not own.startswith(f"{EPOCHS}=")]
        changed = tuple(
            sorted((*kept, f"{EPOCHS}={stage.epochs}", *(f"{key}={value}" for key, value in whole.items())))
        )
        protocol, first = _for_trials(self.protocol, stage.epochs), SEEDS * (1 + self.study_seed)
        return [
            Cell(method, self.on_fold(fold, stage.partition), protocol, first + seed, changed)
            for fold, seed in stage.pairs
        ]  # fmt: skip

    def on_fold(self, number: int, partition: int = 0) -> DatasetSpec:
        """The dataset, tested on a fold of its training classes."""
        fold = Fold(number=number, folds=FOLDS, study_seed=self.study_seed, partition=partition)
        return self.dataset.model_copy(update={"fold": fold})

    def is_of(self, entry: Tuned) -> bool:
        """Whether an entry is of this search, with whatever budget."""
        names = (self.protocol.name, self.dataset.name, self.method.name)
        identity = identity_of(self.method, self.dataset, self.protocol)
        same = entry.is_of(identity) and entry.method_hash == identity["method_hash"]
        return same and entry.names == names and entry.study_seed == self.study_seed


def _for_trials(protocol: ProtocolSpec, epochs: int) -> ProtocolSpec:
    """The protocol for so many epochs, scored at their end; the fold is held out in place of validation classes.

    Milestones, steps of the schedule and a warm-up keep their shares of the training.
    """
    training, share = protocol.training, epochs / protocol.training.epochs
    milestones = tuple(dict.fromkeys(max(1, round(share * own)) for own in training.milestones))
    step_size = training.step_size and max(1, round(share * training.step_size))
    warmup = training.warmup and training.warmup.shortened(share, epochs)
    changed = {"epochs": epochs, "milestones": milestones, "step_size": step_size, "warmup": warmup}
    training = training.model_copy(update=changed)
    evaluation = protocol.evaluation.model_copy(update={"every": epochs, "clustering": "last"})
    validation = protocol.validation.model_copy(update={"classes": 0.0})
    return protocol.model_copy(update={"training": training, "evaluation": evaluation, "validation": validation})


def plan_tuning(request: TuningRequest, log: Log, known: Sequence[Tuned] = ()) -> list[Subject]:
    """Resolve what is to be tuned; data are found and read where their contents are their version.

    A modified method is searched on top of what its base's search chose. A base that is neither named nor among the
    known entries of this study is planned first.

    Args:
        request: What the user asked for.
        log: Takes a line where data are read.
        known: What was tuned before.

    Returns:
        The searches, a base's before those of its modified methods.

    Raises:
        UserError: for any name or setting that is not valid, a method that has nothing to search, a budget that is too
            small, or a known base that was tuned with another one.
    """
    if own := [setting for setting in request.settings if setting.startswith(METHOD_SECTIONS)]:
        raise UserError(f"--set {own[0]}: tuning chooses the values of methods", hint="--set takes the protocol's here")
    registry = Registry(request.methods_dir)
    for name in request.methods:
        if not registry.searches(name):
            raise UserError(
                f"{name}: none of its values has a search range, so every trial would be the same",
                hint="give one `search: {low: ..., high: ...}` in its file; see docs/extend/loss.md",
            )
    bases = tuple(dict.fromkeys(name.partition("+")[0] for name in request.methods))
    modified = tuple(name for name in request.methods if "+" in name)
    plain = matrix.Request(
        (*bases, *modified), request.datasets, (0,), request.protocol, request.settings, request.methods_dir,
        request.data_dir, request.skip_bad,
    )  # fmt: skip
    every = [_subject(cell, request, registry) for cell in matrix.plan(plain, log)]
    for subject in every:
        _check_ends(subject)
        _check_classes(subject, request.data_dir)
    planned = [subject for subject in every if not subject.method.distillation]
    known_bases = {subject.place: entry for subject in planned if (entry := _known(subject, known))}
    chosen = {place: entry.values for place, entry in known_bases.items()}
    return [
        *(subject for subject in planned if subject.asked or subject.place not in chosen),
        *(
            replace(subject, base_values=None if subject.method.base in request.methods else chosen.get(subject.place))
            for subject in every
            if subject.method.distillation
        ),
    ]


def _subject(cell: Cell, request: TuningRequest, registry: Registry) -> Subject:
    name = cell.method.name
    slot = "distillation." if cell.method.distillation else "loss."
    searches = {key: search for key, search in registry.searches(name).items() if key.startswith(slot)}
    schedule = make_schedule(request.epochs, cell.protocol.training.epochs)
    return Subject(
        cell.method, cell.dataset, cell.protocol, searches, schedule, request.study_seed, registry, cell.overrides,
        asked=name in request.methods,
    )  # fmt: skip


def _known(subject: Subject, known: Sequence[Tuned]) -> Tuned | None:
    """The entry of a base that the user did not name; of another budget it would make the comparison unfair."""
    entry = next((entry for entry in known if subject.is_of(entry)), None)
    if subject.asked or entry is None:
        return None
    if entry.budget != subject.schedule.budget:
        raise UserError(
            f"{subject.label}: was tuned with {entry.budget} epochs, and what is built on it would be with "
            f"{subject.schedule.budget}",
            hint=f"give --epochs {entry.budget}, or name {subject.method.name} in --methods to tune it again",
        )
    return entry


def _check_ends(subject: Subject) -> None:
    """The class accepts both ends of each range, also in a pinned file."""
    own = subject.files()
    for key, search in subject.searches.items():
        for end in search.ends():
            subject.cells(own | {key: end}, Stage("ends", 1, 1, ((0, 0),)))


def _check_classes(subject: Subject, data_dir: Path | None) -> None:
    """Folds and batches need training classes: a folder of the user's may have too few, and a fold leaves fewer."""
    info = DATASETS.get(subject.dataset.name)
    if info and subject.dataset.root is None:
        left = info.train_classes - -(-info.train_classes // FOLDS)
        check_batches(left, info.train_images * left // info.train_classes, subject.protocol.training)
    if subject.dataset.root is None:
        return
    train, _ = family_of(subject.dataset).read(data_dir, lambda _: None)
    fold = subject.on_fold(0).fold
    assert fold is not None  # noqa: S101 - narrows the type
    try:
        fold_mask(train.class_names, fold)
    except UserError as error:
        raise UserError(f"{subject.dataset.name}: {error}") from error
