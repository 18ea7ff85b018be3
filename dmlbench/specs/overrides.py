"""What `--set` changed, in words that are the same however a value was spelt.

A value that is the default's is no change, and is left out.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dmlbench.errors import UserError
from dmlbench.specs.cell import TEACHER_MODE, TEACHER_WEIGHTS, Cell, MethodSpec
from dmlbench.specs.protocol import METHOD_SECTIONS, is_file_of_weights, own_protocols, resolve_protocol
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.specs.registry import OF_FILES, REPLACED, Registry, own_folder, shipped_files, under_settings
from dmlbench.specs.yaml_files import parse

Typed = tuple[Any, bool]  # a value, and whether its model decides between 2 and 2.0


@dataclass(frozen=True, order=True)
class Settings:
    """Values that are not the defaults, as `key=value`, sorted. False where there is none."""

    pairs: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def __str__(self) -> str:
        return ", ".join(self.pairs)


@dataclass(frozen=True)
class Changes:
    """The settings of a cell that differ from the shipped defaults: of its protocol, its loss and its distillation."""

    protocol: Settings
    loss: Settings
    distillation: Settings


def changes(cell: Cell) -> Changes:
    """What was set for a cell, by the values of its spec: the spelling that was typed makes no difference.

    A key is left out where its value is that of the shipped protocol or method of that name. A file of weights is
    named by its name and the first eight digits of its SHA-256. Of tuned values only a teacher's mode is named: the
    others belong to the tuning.
    """
    found: dict[str, list[str]] = {"protocol": [], **{section: [] for section in METHOD_SECTIONS}}
    digest = cell.protocol.model.weights_sha256
    for key, words in _in_spec(cell):
        section, _, name = key.partition(".")
        if section not in METHOD_SECTIONS:
            content = f" (SHA-256 {digest[:8]})" if key == "model.weights" and digest else ""
            found["protocol"].append(f"{key}={words}{content}")
        elif not cell.method.tuned:
            part = cell.method.distillation
            file = part.teacher_weights_sha256 if part and name == TEACHER_WEIGHTS else None
            found[section].append(f"{name}={words} (SHA-256 {file[:8]})" if file else f"{name}={words}")
    if cell.index()[TEACHER_MODE] == "eval":
        found["distillation"] = [*(p for p in found["distillation"] if not p.startswith(TEACHER_MODE)), EVAL_MODE]
    protocol, loss, distillation = (Settings(tuple(sorted(pairs))) for pairs in found.values())
    return Changes(protocol, loss, distillation)


def sourced(cell: Cell, marks: Sequence[str]) -> MethodSpec:
    """A cell's method with where its values come from: the shipped one, where its spec is too old to say it.

    Args:
        cell: The cell.
        marks: Of its result.
    """
    if cell.method.tuned is not None or any(mark.startswith(ORIGINS) for mark in marks):
        return cell.method
    today = _shipped_like(cell)
    if today is None or today.searchable() != cell.method.searchable():
        return cell.method
    return under_settings(today, cell.protocol.name, cell.overrides)


EVAL_MODE = f"{TEACHER_MODE}=eval"
ORIGINS = ("published", "transferred", "new")  # what marks begin with that releases of before did not write


def with_origins(marks: Sequence[str], cell: Cell) -> list[str]:
    """A result's marks with where its values come from, which earlier releases did not record of all.

    There the shipped files tell, where the cell has their values; else nothing is added.
    """
    today = sourced(cell, marks)
    if today is cell.method:
        return list(marks)
    of_files = (mark for mark in today.marks if mark.startswith(OF_FILES))
    return [*of_files, *(mark for mark in marks if not mark.startswith(OF_FILES))]


def to_type(cell: Cell) -> tuple[str, ...]:
    """What was set for a cell, in words that `--set` takes: `loss.alpha=3`."""
    return tuple(sorted(f"{key}={words}" for key, words in _in_spec(cell)))


def _in_spec(cell: Cell) -> Iterator[tuple[str, str]]:
    """Every key that was set and changes something, with its value in the cell's spec in words."""
    for key, typed in (pair.partition("=")[::2] for pair in cell.overrides):
        try:
            now = _value(key, cell.protocol, cell.method)
        except AttributeError:  # a key of an earlier release
            yield key, typed
            continue
        if now is not None and repr(now) != repr(_shipped_value(key, cell)):
            yield key, _in_words(*now)


def _shipped_value(key: str, cell: Cell) -> Typed | None:
    method, protocol, dataset = cell.method, cell.protocol, cell.dataset.name
    if key.partition(".")[0] not in METHOD_SECTIONS:
        shipped = _shipped_protocol(protocol.name, dataset)
        return _value(key, shipped, method) if shipped else None
    default = _shipped_like(cell)
    return _value(key, protocol, default) if default else None


def _shipped_like(cell: Cell) -> MethodSpec | None:
    """The shipped method of a cell's names; None where it is of a user's own."""
    method = cell.method
    if any(REPLACED.format(name) in method.marks for name in (*method.name.split("+"), method.name)):
        return None
    return _shipped_method(method.name, cell.dataset.name, cell.protocol.name, cell.protocol.family)


@cache
def _shipped_protocol(name: str, dataset: str) -> ProtocolSpec | None:
    return resolve_protocol(name, dataset) if name in own_protocols() else None


@cache
def _shipped_method(name: str, dataset: str, protocol: str, family: str | None) -> MethodSpec | None:
    if not shipped_files().keys() >= {*name.split("+")}:
        return None
    try:
        return _shipped_registry().resolve(name, dataset, protocol, family=family)
    except UserError:  # a base as a modifier, in a user's own folder
        return None


@cache
def _shipped_registry() -> Registry:
    return Registry(own_folder())


def changed(
    settings: Sequence[str], registry: Registry, method: MethodSpec, protocol: tuple[str, ProtocolSpec], dataset: str
) -> tuple[str, ...]:
    """The settings that make a method or its protocol another one, sorted.

    Args:
        settings: As typed, `key.path=value`; of one given twice the last counts.
        registry: Knows the method without them.
        method: With the settings. Those of parts that it has not do not reach it.
        protocol: As it was named, and with the settings.
        dataset: The name of what both were resolved for.
    """
    if not settings:
        return ()
    named, given = protocol
    family = given.family
    before = resolve_protocol(named, dataset), registry.resolve(method.name, dataset, given.name, family=family)
    found = []
    for key in dict.fromkeys(setting.partition("=")[0] for setting in settings):
        now, default = _value(key, given, method), _value(key, *before)
        if now is not None and repr(now) != repr(default):
            found.append(f"{key}={_in_words(*now)}")
    return tuple(sorted(found))


def _value(key: str, protocol: ProtocolSpec, method: MethodSpec) -> Typed | None:
    """The value of a key, or None where there is none."""
    section, *names = key.split(".")
    if section in METHOD_SECTIONS:
        part = getattr(method, section)
        name = ".".join(names)
        settings = part.settings() if part is not None else {}
        return (settings[name], not part.plugin) if name in settings else None
    value: Any = getattr(protocol, section)
    for name in names:
        value = value.get(name) if isinstance(value, dict) else getattr(value, name)
    if key == "model.weights" and value and is_file_of_weights(value):
        value = Path(value).name  # its content is hashed, and its folder is private
    return value, len(names) == 1


def _in_words(value: Any, typed: bool) -> str:  # noqa: ANN401 - any value
    """A value as it may be typed again."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return (
            f"{value:.0f}" if typed and value.is_integer() and abs(value) < 1e15 else repr(value).replace("e-0", "e-")
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(_in_words(each, typed) for each in value)}]"
    if isinstance(value, str):
        return value if _is_plain(value) else json.dumps(value, ensure_ascii=False)
    return str(value)


def _is_plain(text: str) -> bool:
    """Whether a text is one without quotes, too."""
    try:
        return bool(parse(text) == text)
    except ValueError:
        return False
