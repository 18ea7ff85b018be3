"""The part of a spec that names the data, and what all parts of a spec have in common."""

from typing import Annotated, Any

from annotated_types import Ge, Lt
from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator, model_validator


class Section(BaseModel):
    """A part of a spec: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


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


class DatasetSpec(Section):
    """A dataset by name and by the version of its contents; where a user's own lies stays out of the hash.

    `version` fixes the contents, the split and what was `skipped` (paths of images left out as unusable). With
    `held_out`, a fraction of the TRAINING classes stands in for the test classes, which nothing can then be chosen by.
    """

    name: str
    version: str
    root: str | None = None
    split: FolderSplit = FolderSplit()
    skipped: tuple[str, ...] = ()
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.0

    @property
    def label(self) -> str:
        """Its name in tables, which says so where it is not tested on its test classes."""
        return f"{self.name} (tested on {self.held_out:.0%} of its training classes)" if self.held_out else self.name

    def identity(self) -> dict[str, Any]:
        """What enters the hash."""
        held_out = {"held_out": self.held_out} if self.held_out else {}
        return {"name": self.name, "version": self.version} | held_out
