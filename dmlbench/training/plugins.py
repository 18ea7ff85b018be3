"""Loads the classes that a spec names, a user's own included, and calls them with the spec's values."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from dmlbench.errors import UserError
from dmlbench.specs.cell import Part
from dmlbench.specs.plugins import LOADED_FOLDERS, plugin_digest
from dmlbench.specs.signatures import REGISTERED


def component_of(part: Part) -> Any:  # noqa: ANN401 - a class
    """Return the class of a part: a registered one, or one from the user's file."""
    if part.plugin:
        return plugin_class(part)
    module, _, name = REGISTERED[part.slot][part.class_name].partition(":")
    return getattr(importlib.import_module(module), name)


def construct(component: Any, values: Mapping[str, object], part: Part) -> Any:  # noqa: ANN401 - a registered class
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


def with_sizes(component: Any, values: Mapping[str, object], sizes: dict[str, int]) -> dict[str, object]:  # noqa: ANN401
    """Return the values, and of the sizes those that a constructor asks for by name."""
    taken = _parameters(component)
    return {**values} | {name: size for name, size in sizes.items() if name in taken}


def callable_of(part: Part, sizes: dict[str, int]) -> Callable[..., Any]:
    """Build what a part names and check that it can be called; raises UserError."""
    component = component_of(part)
    built = construct(component, with_sizes(component, part.values(), sizes), part)
    if not callable(built):
        raise UserError(f"{part.plugin}: {part.class_name}: a {part.kind} is called, and this has no __call__")
    found: Callable[..., Any] = built
    return found


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
    module = _module(path, part.plugin_sha256 or "")
    if not hasattr(module, part.class_name):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = f"it defines {', '.join(own)}" if own else "it defines no class"
        raise UserError(f"{path}: class: defines no {part.class_name!r}", hint=hint)
    component = getattr(module, part.class_name)
    if not callable(component):
        raise UserError(f"{path}: class: {part.class_name!r} is no class but of type {type(component).__name__}")
    return component


def _module(path: Path, sha256: str) -> ModuleType:
    """The module of a plugin, which may import its neighbours both as `helper` and as `.helper`."""
    package = f"dmlbench_plugin_{hashlib.sha256(f'{path.parent} {sha256}'.encode()).hexdigest()[:16]}"
    name = f"{package}.{path.stem}"
    if plugin_digest(path) != sha256:
        raise UserError(f"{path}: plugin: it, or what it imports, has changed since the cell was planned")
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path}: plugin: not a Python file")
    _make_way(path.parent)
    parent = sys.modules[package] = ModuleType(package)
    parent.__path__ = [str(path.parent)]
    module = sys.modules[name] = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except BaseException as error:
        for own in [own for own in sys.modules if own.partition(".")[0] == package]:
            del sys.modules[own]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UserError(f"{path}: plugin: {type(error).__name__}: {error}") from error
    return module


def _make_way(folder: Path) -> None:
    """Let `import helper` find the folder's, after all that is installed, and no helper of an earlier plugin."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and not name.startswith("dmlbench_plugin_") and LOADED_FOLDERS & {*map(str, Path(file).parents)}:
            del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if entry not in LOADED_FOLDERS]
    LOADED_FOLDERS.add(str(folder))
    sys.path.append(str(folder))
    importlib.invalidate_caches()


class Transform:
    """A user's augmentation: it travels to the loader's workers as its spec, and is built anew there."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._transform: Callable[[Tensor], Tensor] | None = callable_of(part, {})  # a mistake shows before training

    def __call__(self, image: Tensor) -> Tensor:
        """(C, H, W) uint8, or float32 in [0, 1] -> the same shape and type."""
        if self._transform is None:
            self._transform = callable_of(self._part, {})
        changed = self._transform(image)
        if not isinstance(changed, Tensor) or changed.shape != image.shape or changed.dtype != image.dtype:
            given = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(f"{self._part.name}: must give {image.dtype} {tuple(image.shape)}, gives {given}")
        return changed

    def __getstate__(self) -> dict[str, object]:
        return {"_part": self._part, "_transform": None}
