"""The YAML schema of `methods/*.yaml`: values with their sources, and what a paper published."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, StrictInt, model_validator

from dmlbench.errors import UserError
from dmlbench.specs.cell import NETWORK_RATE, Kind, ResolvedValue, Slot, TeacherMode, TeacherName, slot_of
from dmlbench.specs.dataset import Section
from dmlbench.specs.protocol_spec import Scalar
from dmlbench.specs.signatures import REGISTERED, signature

# A name is a folder's, and of two such with a + between them.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)]
# Published NMI is that of the paper's own k-means; ours is another one, unless it was asked for.
OTHER_NMI = "NMI by another k-means; ours by --set evaluation.nmi_revisiting=true"
PinnedName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*\+[a-z0-9][a-z0-9_-]*$", max_length=201)]


class Condition(Section):
    """Where an override applies: every field given must match."""

    base: str | None = None
    dataset: str | None = None
    protocol: str | None = None

    def given(self) -> dict[str, str]:
        """The fields that are set."""
        return self.model_dump(exclude_none=True)


class PublishedFor(Section):
    """What a value was published with: protocols or families of them, and datasets; no datasets means any."""

    protocols: Annotated[tuple[str, ...], Field(min_length=1)]
    datasets: tuple[str, ...] = ()

    def holds(self, context: dict[str, str]) -> bool:
        """Whether a context of protocol, its family and dataset is one of those."""
        named = {context.get("protocol"), context.get("family")}
        return not named.isdisjoint(self.protocols) and (not self.datasets or context.get("dataset") in self.datasets)


class Sourced(Section):
    """A value and where it comes from.

    `published_for`, the value's or the file's, says for which uses it was published. `published: true` without it says
    that the value belongs to the method's definition, whatever the protocol. Without either nobody published it.
    """

    value: Scalar
    source: str
    published: bool | None = None
    published_for: PublishedFor | None = None

    @model_validator(mode="after")
    def _published_once(self) -> "Sourced":
        if self.published_for and self.published is False:
            raise ValueError("published: false and published_for exclude each other")
        return self

    def resolved(self, context: dict[str, str], published_for: PublishedFor | None) -> ResolvedValue:
        """The value in a context; `published_for` is the file's, for values that state none."""
        uses = self.published_for or published_for
        published = uses is not None if self.published is None else self.published
        here = published and (uses is None or uses.holds(context))
        elsewhere = uses.protocols if uses and published and not here else ()
        anywhere = published and uses is None
        return ResolvedValue(
            value=self.value, source=self.source, published=here, transferred_from=elsewhere, anywhere=anywhere
        )


class Override(Sourced):
    """Another value under a condition; the condition with the most fields wins."""

    when: Condition


class Search(Section):
    """Where tuning looks for a value: from `low` to `high`, evenly or in its logarithm, or among `choices`."""

    low: StrictInt | float | None = None
    high: StrictInt | float | None = None
    log: bool = False
    choices: tuple[Scalar, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Search":
        if bool(self.choices) == (self.low is not None) or (self.low is None) != (self.high is None):
            raise ValueError("needs low and high, or choices")
        if self.choices and (len(set(self.choices)) < max(2, len(self.choices)) or self.log):
            raise ValueError("choices are two or more that differ, and have no log")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError("with log, low must be above 0")
        return self

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low} to {self.high}{', logarithmic' if self.log else ''}"

    def ends(self) -> tuple[Scalar, ...]:
        """Its lowest and highest value; all choices, where it has no order."""
        return self.choices if self.low is None or self.high is None else (self.low, self.high)

    def is_whole(self, value: Scalar) -> bool:
        """Whether a parameter of this value is searched by whole numbers: where it and both ends are such."""
        return all(isinstance(number, int) and not isinstance(number, bool) for number in (value, self.low, self.high))

    def holds(self, value: Scalar) -> bool:
        """Whether it can come upon a value."""
        if self.low is None or self.high is None:
            return value in self.choices
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


class Parameter(Sourced):
    """A hyperparameter: its value, where the value comes from, where another one applies, and where tuning looks."""

    overrides: tuple[Override, ...] = ()
    search: Search | None = None

    def resolve(self, context: dict[str, str], where: str, published_for: PublishedFor | None = None) -> ResolvedValue:
        """The value for a context of base, dataset, protocol and its family, with where it comes from.

        Args:
            context: Names by `base`, `dataset`, `protocol` and `family`.
            where: Begins an error.
            published_for: What the file's values were published with.

        Raises:
            UserError: where two equally specific overrides apply.
        """
        matching = [item for item in self.overrides if item.when.given().items() <= context.items()]
        if not matching:
            return self.resolved(context, published_for)
        most = max(len(item.when.given()) for item in matching)
        best = [item for item in matching if len(item.when.given()) == most]
        if len(best) > 1:
            raise UserError(f"{where}: two overrides apply equally to {context}; add a condition to one of them")
        return best[0].resolved(context, published_for)


# By the name of a learned parameter, or of a module: then of all parameters that it has. `network` is the network's.
LearningRates = dict[str, Parameter]


class Paper(Section):
    """The publication a method comes from."""

    title: str
    authors: str
    venue: str
    arxiv: str | None = None
    doi: str | None = None


class PublishedFigure(Section):
    """A published result, with everything needed to know what it may be compared with.

    `seeds` is null where it is not known how many it is the mean of. `values` are those of the file's parameters that
    make the published variant: with others it is another method.
    """

    dataset: str
    protocol: str
    metric: str
    value: float
    std: float | None = None
    seeds: PositiveInt | None
    selection: Literal["last", "validation", "best-test", "unknown"]
    source: str
    base: str | None = None
    values: dict[str, Scalar] = Field(default_factory=dict)


def not_known(figure: PublishedFigure) -> str:
    """What of a figure is not known that a comparison needs; empty where all is."""
    if figure.selection == "unknown":
        return "how the epoch was chosen is not known"
    return "" if figure.seeds else "of how many seeds it is the mean is not known"


class MethodFile(Section):
    """A loss or a modifier; `paper: null` says that none backs it, and every table repeats it.

    So does every table with `mark`, a qualification of its own. `order` is its position among those of its kind in
    tables; files without one follow by name. Of the kinds of modifiers `distillation` learns from a
    teacher, and `modifier` is any; a sampler, a head, an augmentation and a miner are a user's.
    """

    name: Name
    title: str
    kind: Kind
    class_name: str = Field(alias="class")
    variant: str = ""
    order: PositiveInt | None = None
    paper: Paper | None
    mark: str | None = None
    teacher: TeacherName = "previous-epoch"
    teacher_mode: TeacherMode = "train"
    parameters: dict[str, Parameter]
    learning_rates: LearningRates = Field(default_factory=dict)
    published_for: PublishedFor | None = None
    published: tuple[PublishedFigure, ...] = ()
    published_with: tuple[str, ...] = ()
    plugin: str | None = None

    @property
    def slot(self) -> Slot:
        """Which part of a method the file fills."""
        return slot_of(self.kind)

    def computes(self, figure: PublishedFigure) -> bool:
        """Whether the file's own values are those that a figure of it was published with."""
        context = {"dataset": figure.dataset, "protocol": figure.protocol, "base": figure.base or self.name}
        wanted = figure.values.items()
        return all(self.parameters[name].resolve(context, self.name).value == value for name, value in wanted)

    @model_validator(mode="before")
    @classmethod
    def _without_teacher(cls, content: Any) -> Any:  # noqa: ANN401 - any content of a file
        """What learns from no teacher need not say so, unless it is a `distillation`."""
        if not isinstance(content, dict) or content.get("kind") in ("loss", "distillation"):
            return content
        shipped = not content.get("plugin") and has_teacher(content.get("class"))
        return content if content.get("kind") == "modifier" and shipped else {"teacher": "none"} | content

    @model_validator(mode="after")
    def _consistent(self) -> "MethodFile":
        runs = self.slot != "loss" and self.teacher in ("previous-epoch", "ema")
        if self.kind == "loss" and self.teacher != "previous-epoch":
            raise ValueError("teacher is for distillations")
        if "teacher_mode" in self.model_fields_set and not runs:
            raise ValueError("teacher_mode has no effect: it is for distillations with teacher: previous-epoch or ema")
        if self.kind == "distillation" and self.learning_rates:
            raise ValueError("learning_rates are for losses: what a distillation holds is not learned")
        if self.kind == "distillation" and self.plugin and self.teacher == "none":
            raise ValueError("teacher: a plugin learns from one; valid: previous-epoch, memory, ema")
        if self.kind not in ("loss", "distillation", "modifier"):
            if not self.plugin or self.teacher != "none":
                raise ValueError(f"kind: {self.kind} is a plugin without a teacher: it needs plugin: FILE.py")
            if self.learning_rates:
                raise ValueError("learning_rates are for losses and modifiers")
        if self.kind != "loss" and NETWORK_RATE in self.learning_rates:
            raise ValueError("learning_rates: network is for losses: a modified method takes its base's")
        self._check_teacher()
        return self

    def _check_teacher(self) -> None:
        names = REGISTERED["distillation"]
        if self.kind == "loss" or self.plugin or self.class_name not in names:
            return
        if (self.teacher == "none") == has_teacher(self.class_name):
            alone = sorted(name for name in names if not has_teacher(name))
            raise ValueError(f"teacher: none is for the classes {', '.join(alone)}, and they have no other")


def has_teacher(name: object) -> bool:
    """Whether a shipped modifier's class learns from a teacher."""
    return name in REGISTERED["distillation"] and signature("distillation", str(name)).has_teacher


def takes_references(file: MethodFile) -> bool:
    """Whether a shipped loss takes references to form pairs with, or a shipped modifier gives them."""
    known = file.class_name in REGISTERED[file.slot]
    return known and signature(file.slot, file.class_name).references


class PinnedFile(Section):
    """A composition with values of its own, such as `ms+obdsd.yaml`; what it leaves out comes from the parts."""

    name: PinnedName
    title: str
    kind: Literal["pinned"]
    loss: dict[str, Parameter] = Field(default_factory=dict)
    distillation: dict[str, Parameter] = Field(default_factory=dict)
    learning_rates: LearningRates = Field(default_factory=dict)
    published_for: PublishedFor | None = None
    published: tuple[PublishedFigure, ...] = ()

    @model_validator(mode="after")
    def _searched_with_the_base(self) -> "PinnedFile":
        of_base = {"loss": self.loss, "learning_rates": self.learning_rates}
        for section, values in of_base.items():
            if name := next((name for name, parameter in values.items() if parameter.search), None):
                said = "tuning takes the base's values, and searches them in the base's file"
                raise ValueError(f"{section}.{name}.search has no effect: {said}")
        return self


AnyFile = MethodFile | PinnedFile


def file_model(content: dict[str, Any]) -> type[MethodFile] | type[PinnedFile]:
    """Which schema a file's `kind` asks for."""
    return PinnedFile if content.get("kind") == "pinned" else MethodFile
