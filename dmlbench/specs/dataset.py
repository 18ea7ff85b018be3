"""The part of a spec that names the data, and what all parts of a spec have in common."""

from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

MOST_INT = 2**63  # what other libraries hold


class Section(BaseModel):
    """A part of a spec: frozen, and a key it does not know is an error. Where it wants a number, nothing else is one.

    Pydantic would read true as 1, and a text as the number in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_only(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any content
        if kind := _number(cls).get(info.field_name or ""):
            for each in value if isinstance(value, list | tuple) else (value,):
                if isinstance(each, bool | str):
                    raise ValueError(f"must be a {kind}")  # noqa: TRY004 - which pydantic collects
                if kind == "whole number" and isinstance(each, int | float) and abs(each) >= MOST_INT:
                    raise ValueError("must be a number of 64 bits")
        return value


@cache
def _number(section: type[BaseModel]) -> dict[str, str]:
    """Fields that hold numbers alone, or tuples of them: `whole number` or `number` by name."""
    kinds = {name: _types(field.annotation) - {type(None)} for name, field in section.model_fields.items()}
    return {
        name: "whole number" if float not in found else "number"
        for name, found in kinds.items()
        if found and found <= {int, float}
    }


def _types(annotation: Any) -> set[Any]:  # noqa: ANN401 - a type
    """The types that an annotation is made of."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    inner = [item for item in get_args(annotation) if isinstance(item, type) or get_args(item)]
    return set().union(*map(_types, inner)) if inner else {annotation}


class FolderSplit(Section):
    """Which classes of a folder train: the first `train` of the sorted ones (None: half), or named for both sides."""

    train: PositiveInt | tuple[str, ...] | None = None
    test: tuple[str, ...] = ()

    @field_validator("train", "test", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:  # noqa: ANN401 - content of a file
        names = value if isinstance(value, list | tuple) else ()
        if any(not isinstance(name, str) for name in names):
            raise ValueError("classes are named by texts: put numbers in quotes")
        if isinstance(value, bool) or not (value is None or isinstance(value, int | list | tuple)):
            raise ValueError("must be a number of classes (train only) or a list of their names")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "FolderSplit":
        if isinstance(self.train, tuple) != bool(self.test):
            raise ValueError("train and test go together as lists of classes; or train alone, as their number")
        named = (*self.train, *self.test) if isinstance(self.train, tuple) else ()
        if twice := sorted(name for name in set(named) if named.count(name) > 1):
            raise ValueError(f"{twice[0]!r} is named twice: classes are in train or in test, and once")
        return self


class Fold(Section):
    """One of several class-disjoint folds of the training classes; `study_seed` draws which classes each has.

    `partition` numbers independent draws of a study.
    """

    number: NonNegativeInt
    folds: Annotated[int, Ge(2)]
    study_seed: NonNegativeInt = 0
    partition: NonNegativeInt = 0

    @model_validator(mode="after")
    def _one_of_them(self) -> "Fold":
        if self.number >= self.folds:
            raise ValueError(f"number: must be below folds ({self.folds})")
        return self


class DatasetSpec(Section):
    """A dataset by name and by the version of its contents; the folder of a user's own images is not part of the hash.

    `version` fixes the contents, the split and what was `skipped` (paths of images left out as unusable). With `fold`,
    a fold of the TRAINING classes replaces the test classes, so that nothing can be chosen by these; the images that
    are trained on are distractors in its gallery. `held_out`, a fraction of the training classes that does so without
    distractors, is of specs that an earlier tuner wrote.
    """

    name: str
    version: str
    root: str | None = None
    split: FolderSplit = FolderSplit()
    skipped: tuple[str, ...] = ()
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.0
    fold: Fold | None = None

    @model_validator(mode="after")
    def _one_side(self) -> "DatasetSpec":
        if self.held_out and self.fold:
            raise ValueError("held_out and fold exclude each other")
        return self

    @property
    def label(self) -> str:
        """Its name in tables, which says if it is not evaluated on its test classes."""
        if self.fold:
            study = f", study {self.fold.study_seed}" if self.fold.study_seed else ""
            again = f", partition {self.fold.partition + 1}" if self.fold.partition else ""
            fold = f"fold {self.fold.number + 1} of {self.fold.folds}"
            return f"{self.name} (tested on {fold} of its training classes{again}{study})"
        return f"{self.name} (tested on {self.held_out:.0%} of its training classes)" if self.held_out else self.name

    @property
    def typed(self) -> str:
        """What a person types after `--datasets`; for images of their own without the path."""
        if self.root is None:
            return self.name
        return f"{self.name}={'FILE.csv' if self.root.lower().endswith('.csv') else 'FOLDER'}"

    def identity(self) -> dict[str, Any]:
        """What enters the hash."""
        held_out = {"held_out": self.held_out} if self.held_out else {}
        unset = set() if self.fold and self.fold.partition else {"partition"}
        fold = {"fold": self.fold.model_dump(mode="json", exclude=unset)} if self.fold else {}
        return {"name": self.name, "version": self.version} | held_out | fold
