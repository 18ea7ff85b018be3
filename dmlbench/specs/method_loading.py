"""Reads a method file, and checks its values against the class that they are for, without torch."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import NonNegativeFloat

from dmlbench.errors import UserError, unknown_name
from dmlbench.specs.cell import NETWORK_RATE, TIMES, ResolvedValue, rate_of
from dmlbench.specs.dataset import Section
from dmlbench.specs.method import AnyFile, MethodFile, Parameter, PinnedFile, PublishedFor, file_model
from dmlbench.specs.plugins import plugin_digest, plugin_path
from dmlbench.specs.protocol_spec import Scalar
from dmlbench.specs.signatures import REGISTERED, signature, with_momentum
from dmlbench.specs.yaml_files import read_yaml, validate

MULTIPLE = re.compile(rf"{TIMES}\d+(\.\d+)?")  # of the network's rate


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
    for name, rate in file.learning_rates.items():
        for end in rate.search.ends() if rate.search else ():
            if validate(LearningRate, {"rate": end}, f"{path}: learning_rates.{name}.search").rate == 0:
                raise UserError(f"{path}: learning_rates.{name}.search: rates are above 0", hint="raise low")
    for each in (0, -1):  # a class may bound several values together
        together = {n: values[n].model_copy(update={"value": search.ends()[each]}) for n, search in searched.items()}
        checked(file, values | together, f"{path}: search")


def check_within_searches(file: AnyFile, where: str) -> None:
    """Raise UserError for a value outside its own search: tuning begins with the file's values."""
    groups = (file.parameters,) if isinstance(file, MethodFile) else (file.loss, file.distillation)
    for name, parameter in ((name, own) for group in groups for name, own in group.items() if own.search):
        for value in (parameter.value, *(override.value for override in parameter.overrides)):
            if parameter.search and not parameter.search.holds(value):
                raise UserError(f"{where}: {name}.search: {parameter.search} does not hold the value {value}")


def checked(file: MethodFile, values: dict[str, ResolvedValue], where: str) -> dict[str, ResolvedValue]:
    """Values with the types and ranges of the registered class."""
    if file.plugin:
        return values
    if file.class_name not in REGISTERED[file.slot]:
        raise unknown_name(f"{file.kind} class", file.class_name, REGISTERED[file.slot], where=f"{where}: class")
    model = signature(file.slot, file.class_name).parameters
    model = with_momentum(model) if file.teacher == "ema" else model
    plain = {name: resolved.value for name, resolved in values.items()}
    typed = validate(model, plain, f"{where}: parameters").model_dump(by_alias=True)
    return {name: values[name].model_copy(update={"value": value}) for name, value in typed.items()}


def resolved_rates(
    file: MethodFile,
    rates: dict[str, Parameter],
    context: dict[str, str],
    where: str,
    stated: Mapping[str, PublishedFor | None] = MappingProxyType({}),
) -> dict[str, ResolvedValue]:
    """Learning rates of a loss's own parameters; a plugin's are known once it is built, and checked there.

    `stated` has what rates were published with that are not the file's own. A rate is a number, `network` for the
    network's, or `x100` for a multiple of that.
    """
    if not file.plugin:
        known = REGISTERED[file.slot].keys() & {file.class_name}
        check_rates(rates, signature(file.slot, file.class_name).learned if known else (), where)
    resolved = {}
    for name, parameter in rates.items():
        found = parameter.resolve(context, f"{where}: {name}", stated.get(name, file.published_for))
        absolute = not _is_relative(found.value) or (name == NETWORK_RATE and found.value != NETWORK_RATE)
        if absolute:
            rate = validate(LearningRate, {"rate": found.value}, f"{where}: learning_rates.{name}").rate
            found = found.model_copy(update={"value": rate})
        resolved[name] = found
    return resolved


def _is_relative(rate: Scalar) -> bool:
    """Whether a rate is `network`, or a multiple of the network's such as `x100`."""
    return isinstance(rate, str) and (rate == NETWORK_RATE or MULTIPLE.fullmatch(rate) is not None)


def check_rates(rates: Iterable[str], learned: Iterable[str], where: str) -> None:
    """Raise UserError for a rate whose name is no learned parameter's, nor `network` or a module's that has one."""
    learned = list(learned)
    for name in rates:
        if name != NETWORK_RATE and not any(rate_of(parameter, [name]) for parameter in learned):
            raise unknown_name("learned parameter", name, learned, where=f"{where}: learning_rates")


def plugin(file: MethodFile, folder: Folder) -> dict[str, str]:
    """Path and digest of the file's Python, as a `Part` holds them; empty for a file without."""
    if not file.plugin:
        return {}
    path = plugin_path(file.plugin, folder.path, file.name)
    return {"plugin": str(path), "plugin_sha256": plugin_digest(path)}


class LearningRate(Section):
    """Rate of a parameter that a loss or a modifier learns beside the network; 0 keeps it as it starts."""

    rate: NonNegativeFloat
