"""What a cell is: the resolved method, dataset, protocol and seed, and the hash that names the result.

Everything here is frozen. Files are validated at their boundary (`schema.py`); inside the program these
models are read, never changed. Titles, sources and other prose never enter the hash.

What two cells of one name were made from that is not the same.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from dmlbench.specs.dataset import DatasetSpec, Section
from dmlbench.specs.protocol_spec import ProtocolSpec, Scalar, protocol_identity

TeacherName = Literal["previous-epoch", "ema", "memory", "weights", "none"]
TeacherMode = Literal["train", "eval"]
VARY = "training.vary="  # what `--vary` sets
TUNED = "tuned"  # a part of a result's variant
NETWORK_RATE = "network"  # in place of a learning rate; as a loss's rate of this name, the network's own
TIMES = "x"  # begins a learning rate as a multiple of the network's: x100
RATE = "learning_rates."  # begins the name of a rate where parameters are named, too
EVAL_TEACHER = "teacher in eval mode: the official code's is in training mode"  # a mark
TEACHER_MODE = "teacher_mode"  # a setting of a distillation beside its parameters
TEACHER_WEIGHTS = "teacher_weights"  # the same: a file of a network that was trained before
MOMENTUM = "momentum"  # a parameter of a method whose teacher is `ema`
Kind = Literal["loss", "distillation", "modifier", "sampler", "head", "augmentation", "miner"]
Slot = Literal["loss", "distillation"]


class ResolvedValue(Section):
    """A hyperparameter's value and where it comes from.

    `published` says that it was published for this very protocol and dataset, or, with `anywhere`, without a statement
    for which; where it was for another protocol or dataset, `transferred_from` names the protocols.
    """

    value: Scalar
    source: str
    published: bool = True
    transferred_from: tuple[str, ...] = ()
    anywhere: bool = False


def rate_of(parameter: str, rates: Iterable[str]) -> str | None:
    """Which rate holds for a parameter: its own, else that of the innermost module which has one; None for none."""
    return max((name for name in rates if f"{parameter}.".startswith(f"{name}.")), key=len, default=None)


def absolute_rate(value: Scalar, network: float) -> float:
    """A learning rate as a number: `network` is the network's, `x100` a hundred times that."""
    if isinstance(value, str):
        return network if value == NETWORK_RATE else network * float(value.removeprefix(TIMES))
    return float(value)


def slot_of(kind: Kind) -> Slot:
    """The slot of a method that a kind of file fills."""
    return "loss" if kind == "loss" else "distillation"


class Part(Section):
    """A loss, or what modifies it, with every value resolved.

    `teacher_mode` is the mode of a teacher that is a network. Method files default to `train`, the official
    code's; a spec that does not state it was written when every teacher was in eval mode. With `teacher: weights` the
    teacher is a network that was trained before, whose file is hashed.
    """

    name: str
    title: str
    kind: Kind
    class_name: str
    variant: str = ""
    teacher: TeacherName = "previous-epoch"
    teacher_mode: TeacherMode = "eval"
    parameters: dict[str, ResolvedValue]
    learning_rates: dict[str, ResolvedValue] = Field(default_factory=dict)
    plugin: str | None = None
    plugin_sha256: str | None = None
    teacher_weights: str | None = None
    teacher_weights_sha256: str | None = None

    @property
    def slot(self) -> Slot:
        """Which part of a method it is: the loss, or what follows the +, whatever kind of modifier that is."""
        return slot_of(self.kind)

    @property
    def runs_teacher(self) -> bool:
        """Whether a second network, the teacher, is run on every batch."""
        return self.kind in ("distillation", "modifier") and self.teacher in ("previous-epoch", "ema", "weights")

    def values(self) -> dict[str, Scalar]:
        """Parameter values by name."""
        return {name: resolved.value for name, resolved in self.parameters.items()}

    def searchable(self) -> dict[str, Scalar]:
        """What tuning may search, by name: the parameters, and rates as `learning_rates.NAME`."""
        return self.values() | {f"{RATE}{name}": resolved.value for name, resolved in self.learning_rates.items()}

    def settings(self) -> dict[str, Scalar]:
        """What `--set` may change, by name: the parameters, a teacher's mode, and its weights where it has them."""
        own: dict[str, Scalar] = {TEACHER_MODE: self.teacher_mode} if self.runs_teacher else {}
        # The file's content is hashed, and its folder is private.
        own |= {TEACHER_WEIGHTS: Path(self.teacher_weights).name} if self.teacher_weights else {}
        return self.values() | own

    def accepted(self) -> set[str]:
        """Names that `--set` may give: those of `settings`, and a teacher's weights in place of the epoch before."""
        replaceable = self.kind == "distillation" and self.teacher in ("previous-epoch", "weights") and not self.plugin
        return {*self.settings(), *([TEACHER_WEIGHTS] if replaceable else [])}

    def rates(self) -> dict[str, float | str]:
        """Learning rates by the name of a learned parameter, or of a module for all that it holds.

        `network` is included only where it is an exception from a module's rate: elsewhere it is the default.
        """
        stated = {name: resolved.value for name, resolved in self.learning_rates.items()}
        return {
            name: value if isinstance(value, str) else float(value)
            for name, value in stated.items()
            if value != NETWORK_RATE or rate_of(name, [other for other in stated if other != name])
        }

    def rate(self, parameter: str, network: float) -> float:
        """The learning rate of a learned parameter; `network` is the network's."""
        rates = self.rates()
        return absolute_rate(rates.get(rate_of(parameter, rates) or "", NETWORK_RATE), network)

    def identity(self) -> dict[str, Any]:
        """What enters the hash: values, not where they come from."""
        identity = {"class": self.class_name, "parameters": self.values(), "learning_rates": self.rates()}
        identity |= {"kind": self.kind} if self.kind not in ("loss", "distillation", "modifier") else {}
        identity |= {"teacher": self.teacher} if self.teacher != "previous-epoch" else {}
        identity |= {TEACHER_MODE: self.teacher_mode} if self.runs_teacher and self.teacher_mode == "train" else {}
        identity |= {TEACHER_WEIGHTS: self.teacher_weights_sha256} if self.teacher_weights_sha256 else {}
        return identity | ({"plugin": self.plugin_sha256} if self.plugin_sha256 else {})


class MethodSpec(Section):
    """A resolved method: a loss, and for `BASE+MODIFIER` a modifier, of whatever kind, as `distillation`.

    `marks` qualify it in every table.

    `tuned` is the budget, in epochs, of the search that its values are of; None where they are those of its files.
    """

    name: str
    loss: Part
    distillation: Part | None = None
    marks: tuple[str, ...] = ()
    tuned: PositiveInt | None = None

    @property
    def base(self) -> str:
        """Name of the base method (`ms` for `ms+obdsd`)."""
        return self.loss.name

    def searchable(self) -> dict[str, Scalar]:
        """What tuning may search of loss and modifier, by `loss.NAME` and `distillation.learning_rates.NAME`."""
        parts = filter(None, (self.loss, self.distillation))
        return {f"{part.slot}.{name}": value for part in parts for name, value in part.searchable().items()}

    def network_rate(self, protocol: float) -> float:
        """The network's learning rate: the protocol's, unless the loss's file or tuning gives another."""
        own = self.loss.learning_rates.get(NETWORK_RATE)
        return protocol if own is None or own.value == NETWORK_RATE else float(own.value)

    def identity(self) -> dict[str, Any]:
        """What enters the hash; tuning may find the files' own values, and is another result all the same."""
        distillation = self.distillation.identity() if self.distillation else None
        identity = {"name": self.name, "loss": self.loss.identity(), "distillation": distillation}
        return identity | ({"tuned": self.tuned} if self.tuned else {})


@dataclass(frozen=True)
class Cell:
    """One training: a pure function of its spec."""

    method: MethodSpec
    dataset: DatasetSpec
    protocol: ProtocolSpec
    seed: int
    overrides: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """The hashed content: every value that can change a number."""
        return {
            "method": self.method.identity(),
            "dataset": self.dataset.identity(),
            "protocol": protocol_identity(self.protocol),
            "seed": self.seed,
        }

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the identity's SHA-256; folders carry the first eight."""
        return digest(self.identity())

    @property
    def label(self) -> str:
        """Name for people: `ms+obdsd on glyphs, seed 0`."""
        return f"{self.method.name} on {self.dataset.name}, seed {self.seed}"

    def seed_of(self, source: Literal["init", "order", "split"]) -> int:
        """The seed of the random streams of a source of variance: see `TrainingSpec.vary`."""
        return self.seed if self.protocol.training.vary in ("all", source) else 0

    def index(self) -> dict[str, Any]:
        """The cell's index in tables: names, seed, marks and hashes.

        A teacher in eval mode is part of the variant whether `--set`, the method's file or the age of the spec says so.
        """
        distillation = self.method.distillation
        own = distillation is not None and distillation.runs_teacher and distillation.teacher != "weights"
        mode = distillation.teacher_mode if distillation and own else ""
        overrides, marks = set(self.overrides), list(self.method.marks)
        if mode == "eval":
            overrides.add(f"distillation.{TEACHER_MODE}=eval")
            marks += [EVAL_TEACHER] if EVAL_TEACHER not in marks else []
        return {
            "hash": self.hash,
            "protocol": self.protocol.name,
            "variant": ", ".join((*sorted(overrides), *([TUNED] if self.method.tuned else []))),
            "dataset": self.dataset.label,
            "method": self.method.name,
            "base": self.method.base,
            "modifier": distillation.name if distillation else "",
            TEACHER_MODE: mode,
            "seed": self.seed,
            "marks": marks,
            "protocol_hash": digest(protocol_identity(self.protocol)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `spec.yaml`."""
        return {
            "hash": self.hash,
            "seed": self.seed,
            "overrides": list(self.overrides),
            "dataset": self.dataset.model_dump(mode="json"),
            "method": self.method.model_dump(mode="json"),
            "protocol": self.protocol.model_dump(mode="json"),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Cell":
        """Inverse of `to_dict`; raises pydantic's ValidationError on foreign content."""
        return cls(
            method=MethodSpec.model_validate(data["method"]),
            dataset=DatasetSpec.model_validate(data["dataset"]),
            protocol=ProtocolSpec.model_validate(data["protocol"]),
            seed=int(data["seed"]),
            overrides=tuple(data["overrides"]),
        )


def digest(content: Any) -> str:  # noqa: ANN401 - any JSON content
    """First sixteen hexadecimal digits of the SHA-256 of the content's canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


SHOWN = 3


def differences(first: Cell, second: Cell) -> str:
    """The values in which two cells differ, seeds apart: `method.loss.parameters.alpha 2.0, 3.0`.

    Of two different methods only dataset and protocol are compared.

    Args:
        first: A cell.
        second: Another, whose values are given second.

    Returns:
        At most three values and how many more there are; empty where only the seeds differ.
    """
    left_out = {"seed"} if first.method.name == second.method.name else {"seed", "method"}
    mine, other = (
        dict(_flat({key: value for key, value in cell.identity().items() if key not in left_out}))
        for cell in (first, second)
    )
    names = [name for name in {**mine, **other} if mine.get(name) != other.get(name)]
    shown = [_in_words(name, mine.get(name), other.get(name)) for name in names[:SHOWN]]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return "; ".join(shown + more)


def _flat(content: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{above}{key}"
        pairs += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def _in_words(name: str, mine: Any, other: Any) -> str:  # noqa: ANN401 - any value of a spec
    if name.endswith(("sha256", ".plugin")):  # a digest only shows that the file changed
        return f"{name} changed"
    return f"{name} {mine}, {other}"
