"""Reads a method file, and checks its values against the class that they are for.

Hyperparameters of the registered losses and distillations: names, types and ranges, checked without torch.

A test holds these models to the constructors in `losses` and `distillation`.
"""

import ast
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

from annotated_types import Ge, Lt
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from dmlbench.errors import UserError, unknown_name
from dmlbench.specs.cell import NETWORK_RATE, ResolvedValue, rate_of
from dmlbench.specs.dataset import Section
from dmlbench.specs.method import AnyFile, MethodFile, Parameter, PinnedFile, PublishedFor, file_model
from dmlbench.specs.yaml_files import path_of, read_yaml, validate


@dataclass(frozen=True)
class Folder:
    """A folder of method files; Python plugins load only from one that the user named."""

    path: Path
    named_by_user: bool = False


def load_file(path: Path, folder: Folder) -> AnyFile:
    """Read and validate one method file, with the default value of every parameter checked."""
    content = read_yaml(path)
    file = validate(file_model(content), content, str(path))
    if isinstance(file, PinnedFile):
        return file
    if file.plugin and not folder.named_by_user:
        raise UserError(
            f"{path}: plugin: Python loads only from a folder you name",
            hint=f"add --methods-dir {folder.path}",
        )
    values = checked(file, {name: p.resolve({}, str(path)) for name, p in file.parameters.items()}, str(path))
    resolved_rates(file, file.learning_rates, {}, str(path))
    _check_searches(file, values, path)
    return file


def _check_searches(file: MethodFile, values: dict[str, ResolvedValue], path: Path) -> None:
    """Both ends of every range must be values that the class takes, or a trial would fail after hours."""
    searched = {name: p.search for name, p in file.parameters.items() if p.search}
    for name, search in searched.items():
        for end in search.ends():
            checked(file, values | {name: values[name].model_copy(update={"value": end})}, f"{path}: {name}.search")
    for each in (0, -1):  # a class may bound several values together
        together = {n: values[n].model_copy(update={"value": search.ends()[each]}) for n, search in searched.items()}
        checked(file, values | together, f"{path}: search")


def checked(file: MethodFile, values: dict[str, ResolvedValue], where: str) -> dict[str, ResolvedValue]:
    """Values with the types and ranges of the registered class."""
    registered = LOSS_PARAMETERS if file.kind == "loss" else DISTILLATION_PARAMETERS
    if file.plugin:
        return values
    if file.class_name not in registered:
        raise unknown_name(f"{file.kind} class", file.class_name, registered, where=f"{where}: class")
    plain = {name: resolved.value for name, resolved in values.items()}
    typed = validate(registered[file.class_name], plain, f"{where}: parameters").model_dump(by_alias=True)
    return {name: values[name].model_copy(update={"value": value}) for name, value in typed.items()}


def resolved_rates(
    file: MethodFile,
    rates: dict[str, Parameter],
    context: dict[str, str],
    where: str,
    stated: Mapping[str, PublishedFor | None] = MappingProxyType({}),
) -> dict[str, ResolvedValue]:
    """Learning rates of a loss's own parameters; a plugin's are known once it is built, and checked there.

    `stated` has what rates were published with that are not the file's own. A rate is a number, or `network` for the
    network's.
    """
    if not file.plugin:
        check_rates(rates, LEARNED.get(file.class_name, ()), where)
    resolved = {}
    for name, parameter in rates.items():
        found = parameter.resolve(context, f"{where}: {name}", stated.get(name, file.published_for))
        if found.value != NETWORK_RATE:
            rate = validate(LearningRate, {"rate": found.value}, f"{where}: learning_rates.{name}").rate
            found = found.model_copy(update={"value": rate})
        resolved[name] = found
    return resolved


def check_rates(rates: Iterable[str], learned: Iterable[str], where: str) -> None:
    """Raise UserError for a rate whose name is neither a learned parameter's nor that of a module which has one."""
    learned = list(learned)
    for name in rates:
        if not any(rate_of(parameter, [name]) for parameter in learned):
            raise unknown_name("learned parameter", name, learned, where=f"{where}: learning_rates")


def plugin(file: MethodFile, folder: Folder) -> dict[str, str]:
    """Path and digest of the file's Python, as a `Part` holds them; empty for a file without."""
    if not file.plugin:
        return {}
    path = path_of(folder.path / file.plugin, "plugin:").resolve()
    if path.parent != folder.path.resolve() or not path.is_file():
        why = "must be beside its YAML" if path.is_file() else f"no such file beside {file.name}'s YAML"
        raise UserError(f"{folder.path / file.plugin}: plugin: {why}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: plugin: cannot be read ({error.strerror})") from error
    _check_alone(path, content)
    return {"plugin": str(path), "plugin_sha256": hashlib.sha256(content).hexdigest()}


def _check_alone(path: Path, content: bytes) -> None:
    """The hash is of one file, so one that imports its neighbours would change without a change of the hash."""
    try:
        statements = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # loading it says what is wrong
    for node in statements:
        if isinstance(node, ast.Import):
            names, beside = [alias.name for alias in node.names], False
        elif isinstance(node, ast.ImportFrom):
            names, beside = [node.module or node.names[0].name], node.level > 0
        else:
            continue
        if name := next((name for name in names if beside or _is_beside(name.partition(".")[0], path.parent)), None):
            raise UserError(
                f"{path}: plugin: imports {name!r} beside it, which its hash would not cover",
                hint="a plugin is one file: move what it needs into it",
            )


def _is_beside(module: str, folder: Path) -> bool:
    """Whether a module comes from a folder; one of that name which is installed comes first."""
    if not (folder / f"{module}.py").is_file() and not (folder / module).is_dir():
        return False
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    origin = found.origin if found else None
    return origin is None or Path(origin).is_relative_to(folder)


class ContrastiveParameters(Section):
    """Contrastive loss."""

    positive_margin: NonNegativeFloat
    negative_margin: PositiveFloat
    mining: Literal["distance"]


class TripletParameters(Section):
    """Triplet loss."""

    margin: PositiveFloat
    mining: Literal["distance", "semihard"]


class MarginParameters(Section):
    """Margin loss with learned class boundaries."""

    margin: PositiveFloat
    beta: PositiveFloat
    mining: Literal["distance"]


class MultiSimilarityParameters(Section):
    """Multi-Similarity loss."""

    alpha: PositiveFloat
    beta: PositiveFloat
    base: float
    epsilon: NonNegativeFloat


class ProxyAnchorParameters(Section):
    """Proxy-Anchor loss."""

    alpha: PositiveFloat
    delta: NonNegativeFloat

    @model_validator(mode="after")
    def _exponents_fit(self) -> Self:
        # The loss subtracts no maximum from its exponents, which float32 bears up to e^80.
        if self.alpha * (1 + self.delta) > 80:
            raise ValueError("alpha * (1 + delta) must be at most 80")
        return self


class LearningRate(Section):
    """Rate of a parameter that a loss learns beside the network; 0 keeps it as it starts."""

    rate: NonNegativeFloat


class PSDParameters(Section):
    """Progressive self-distillation. `lambda` weighs the loss; it grows with the epoch from 0."""

    lambda_: NonNegativeFloat = Field(alias="lambda")
    tau: PositiveFloat


class OBDSDParameters(PSDParameters):
    """Self-distillation with online batch diffusion."""

    omega: Annotated[float, Ge(0), Lt(1)]
    tau_diffusion: PositiveFloat


class S2SDParameters(PSDParameters):
    """Self-distillation from wider embeddings; `dimensions` are whole numbers with commas between them.

    Its weight is above 0: with 0 the branches would go on training the network, and it would not be its base.
    """

    lambda_: PositiveFloat = Field(alias="lambda")
    dimensions: Annotated[str, Field(pattern=r"^[1-9]\d*(,[1-9]\d*)*$")]
    features: bool
    feature_weight: NonNegativeFloat
    feature_delay: NonNegativeInt


class DM2Parameters(Section):
    """A cohort that learns from itself; `period` 1 is no temporal diversity."""

    lambda_: NonNegativeFloat = Field(alias="lambda")
    members: Annotated[int, Ge(2)]
    model: bool
    view: bool
    period: PositiveInt


LOSS_PARAMETERS: dict[str, type[Section]] = {
    "contrastive": ContrastiveParameters,
    "triplet": TripletParameters,
    "margin": MarginParameters,
    "multi_similarity": MultiSimilarityParameters,
    "proxy_anchor": ProxyAnchorParameters,
}
DISTILLATION_PARAMETERS: dict[str, type[Section]] = {
    "psd": PSDParameters,
    "obdsd": OBDSDParameters,
    "s2sd": S2SDParameters,
    "dm2": DM2Parameters,
}

# Parameters a loss learns beside the network; a method file may give each a learning rate of its own.
LEARNED: dict[str, tuple[str, ...]] = {"margin": ("beta",), "proxy_anchor": ("proxies",)}
