"""What `--set` changed, in words that are the same however a value was spelt: results with the same words go together.

A value that is the default's is no change, and is left out.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmlbench.specs.cell import MethodSpec, ProtocolSpec
from dmlbench.specs.protocol import METHOD_SECTIONS, is_file_of_weights, resolve_protocol
from dmlbench.specs.registry import Registry
from dmlbench.specs.yaml_files import parse

Typed = tuple[Any, bool]  # a value, and whether its model decides between 2 and 2.0


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
