"""A study as a file: methods, datasets, seeds and what is claimed of them before the runs."""

import json
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import Field, field_validator

from dmlbench.errors import UserError
from dmlbench.specs.dataset import Section
from dmlbench.specs.protocol import whole_key
from dmlbench.specs.protocol_spec import Scalar
from dmlbench.specs.yaml_files import read_yaml, validate

Names = Annotated[tuple[str, ...], Field(min_length=1)]
METRICS = ("recall_at_1", "map_at_r", "r_precision")
POINT = 1.0


class Claim(Section):
    """That a modifier improves bases: declared before the runs, and tested as one question.

    Attributes:
        modifier: Its name, such as `psd`.
        bases: The losses that it is claimed to improve.
        datasets: Where; empty for all datasets of the study.
        metric: What is compared: `recall_at_1`, `map_at_r` or `r_precision`.
        effect: The smallest effect of interest, in points: a smaller difference is `equivalent`.
    """

    modifier: str
    bases: Names
    datasets: tuple[str, ...] = ()
    metric: str = METRICS[0]
    effect: Annotated[float, Gt(0), Le(100)] = POINT

    @field_validator("bases", "datasets")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
            raise ValueError(f"must each be given once ({twice!r} is twice)")
        return names

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"must be one of {', '.join(METRICS)}")
        return metric

    @property
    def title(self) -> str:
        """For people: `psd improves ms, triplet`."""
        return f"{self.modifier} improves {', '.join(self.bases)}"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are compared: each base, alone and modified."""
        return tuple(name for base in self.bases for name in (base, f"{base}+{self.modifier}"))


class StudyFile(Section):
    """What `dmlbench run study.yaml` runs; what it leaves out is given as an option.

    Attributes:
        methods: Names; those of its claims are added.
        datasets: As `--datasets` takes them.
        seeds: How many (0 to N-1), or the seeds themselves.
        protocol: Name or YAML file.
        settings: What `--set` changes, by its key.
        claims: What is claimed before the runs.
    """

    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    seeds: Annotated[int, Ge(1)] | tuple[Annotated[int, Ge(0)], ...] | None = None
    protocol: str | None = None
    settings: dict[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()

    @field_validator("methods", "datasets", mode="before")
    @classmethod
    def _as_typed(cls, names: object) -> object:
        """As on the command line: `ms,triplet`."""
        return [name.strip() for name in names.split(",")] if isinstance(names, str) else names

    @field_validator("claims", mode="before")
    @classmethod
    def _in_short(cls, claims: object) -> object:
        """As on the command line: `psd:ms,triplet`."""
        if not isinstance(claims, list):
            return claims
        return [parse_claim(own, "claims").model_dump() if isinstance(own, str) else own for own in claims]

    @field_validator("seeds")
    @classmethod
    def _some_once(cls, seeds: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if isinstance(seeds, tuple) and (not seeds or len(set(seeds)) < len(seeds)):
            raise ValueError("must be some seeds, each given once")
        return seeds

    @property
    def changes(self) -> tuple[str, ...]:
        """The settings as `--set` takes them."""
        return tuple(whole_key(f"{key}={json.dumps(value)}") for key, value in self.settings.items())


def read_study(path: Path) -> StudyFile:
    """Read a study; raises UserError, naming file and line, where it is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such study file", hint="a study is a YAML file; see `dmlbench run --help`")
    return validate(StudyFile, read_yaml(path), str(path))


def parse_claim(text: str, where: str = "--claim") -> Claim:
    """The claim in `psd:contrastive,triplet`; raises UserError, which begins with `where`, where it is none."""
    modifier, colon, bases = (part.strip() for part in text.partition(":"))
    names = tuple(name.strip() for name in bases.split(","))
    if not colon or not modifier or not all(names):
        raise UserError(f"{where} {text!r}: must be MODIFIER:BASES", hint="for example psd:contrastive,triplet")
    return validate(Claim, {"modifier": modifier, "bases": names}, f"{where} {text}")
