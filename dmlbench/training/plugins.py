"""Loads the classes that a spec names, a user's own included, and calls them with the spec's values."""

import importlib
import importlib.util
import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dmlbench.errors import UserError
from dmlbench.specs.cell import Part
from dmlbench.specs.signatures import REGISTERED


def component_of(part: Part) -> Any:  # noqa: ANN401 - a class
    """Return the class of a part: a registered one, or one from the user's file."""
    if part.plugin:
        return plugin_class(part)
    module, _, name = REGISTERED[part.slot][part.class_name].partition(":")
    return getattr(importlib.import_module(module), name)


def construct(component: Any, values: dict[str, Any], part: Part) -> Any:  # noqa: ANN401 - a registered class
    """Call a class with a part's values; raises UserError where it does not take them, or whatever it raises."""
    taken = _parameters(component)
    # `lambda` is a word of Python, so that a constructor writes it with a _ at the end.
    given = {f"{name}_" if f"{name}_" in taken and name not in taken else name: each for name, each in values.items()}
    try:
        _check_numbers(inspect.signature(component).bind(**given), part)
        return component(**given)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{part.name}: parameters: {part.class_name} does not take {values} ({error})") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, and end the process
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"{part.name}: {part.class_name} with {values} raises {what}") from error


def with_sizes(component: Any, values: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:  # noqa: ANN401 - a class
    """Return the values, and of the sizes those that a constructor asks for by name."""
    taken = _parameters(component)
    return values | {name: size for name, size in sizes.items() if name in taken}


def _check_numbers(bound: inspect.BoundArguments, part: Part) -> None:
    """Raise UserError for a text, such as `8.0.1`, where a constructor says that it takes a number."""
    for name, parameter in bound.signature.parameters.items():
        value = bound.arguments.get(name)
        if isinstance(value, str) and parameter.annotation in (int, float, "int", "float"):
            raise UserError(f"{part.name}: parameters: {name}: must be a number, not the text {value!r}")


def _parameters(component: Any) -> Collection[str]:  # noqa: ANN401 - a class
    """Names of what a constructor takes; none where Python cannot tell."""
    try:
        return inspect.signature(component).parameters
    except (TypeError, ValueError):
        return ()


def plugin_class(part: Part) -> Any:  # noqa: ANN401 - a class from the user's file
    """Load the class from a file in a folder that the user named with --methods-dir; raises UserError."""
    path = Path(part.plugin or "")
    module_spec = importlib.util.spec_from_file_location(f"dmlbench_plugin_{part.plugin_sha256}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path}: plugin: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"{path}: plugin: {type(error).__name__}: {error}") from error
    if not hasattr(module, part.class_name):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = f"it defines {', '.join(own)}" if own else "it defines no class"
        raise UserError(f"{path}: class: defines no {part.class_name!r}", hint=hint)
    component = getattr(module, part.class_name)
    if not callable(component):
        raise UserError(f"{path}: class: {part.class_name!r} is no class but of type {type(component).__name__}")
    return component
