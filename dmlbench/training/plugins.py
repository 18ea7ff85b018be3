"""Loads the classes that a spec names, a user's own included, and calls them with the spec's values."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor

from dmlbench.errors import DivergedError, UserError, one_line, unknown_name
from dmlbench.specs.cell import Part
from dmlbench.specs.plugins import LOADED_FOLDERS, plugin_digest, shown
from dmlbench.specs.signatures import REGISTERED, SIZES

PACKAGE = Path(__file__).parents[1]


def component_of(part: Part) -> Any:  # noqa: ANN401 - a class
    """Return the class of a part: a registered one, or one from the user's file."""
    if part.plugin:
        return plugin_class(part)
    module, _, name = REGISTERED[part.slot][part.class_name].partition(":")
    return getattr(importlib.import_module(module), name)


class PluginError(RuntimeError):
    """What a plugin raised, with the file and the line where it did. A loader's process wraps it in a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def described(error: BaseException, part: Part | None = None) -> str:
    """An error in one line, with the innermost line of a part's plugin that it came from: `... (mine.py line 9)`."""
    if isinstance(error, PluginError):
        return str(error)
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    what = one_line(f"{type(error).__name__}: {said}" if said else type(error).__name__)
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines += [(error.filename or "", error.lineno)] if isinstance(error, SyntaxError) else []
    folder = Path(part.plugin).resolve().parent if part and part.plugin else None
    own = [(file, line) for file, line in lines if folder and _is_own(Path(file), folder)]
    return f"{what} ({shown(own[-1][0])} line {own[-1][1]})" if own else what


def _is_own(file: Path, folder: Path) -> bool:
    """Whether a file is the user's, not of a library or of this package, which may lie below the same folder."""
    return file.is_relative_to(folder) and "site-packages" not in file.parts and not file.is_relative_to(PACKAGE)


@contextmanager
def located(*parts: Part | None) -> Iterator[None]:
    """Give what a plugin raises its file and line; errors that say enough, or of other code, pass."""
    try:
        yield
    except (UserError, DivergedError, PluginError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        plain = described(error)
        if found := next((own for part in parts if (own := described(error, part)) != plain), None):
            raise PluginError(found) from error
        raise


def construct(component: Any, values: Mapping[str, object], part: Part) -> Any:  # noqa: ANN401 - a registered class
    """Call a class with a part's values; raises UserError where it does not take them, or whatever it raises."""
    taken = _parameters(component)
    # `lambda` is a word of Python, so that a constructor writes it with a _ at the end.
    given = {f"{name}_" if f"{name}_" in taken and name not in taken else name: each for name, each in values.items()}
    if taken:
        _check_given(given, taken, part)
    try:
        return component(**given)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin may raise anything, and end the process
        values = {name: value for name, value in values.items() if name not in SIZES}
        raise UserError(f"{part.name}: {part.class_name} with {values} raises {described(error, part)}") from error


def with_sizes(component: Any, values: Mapping[str, object], sizes: dict[str, int]) -> dict[str, object]:  # noqa: ANN401
    """Return the values, and of the sizes those that a constructor asks for by name."""
    taken = _parameters(component)
    return {**values} | {name: size for name, size in sizes.items() if name in taken}


def callable_of(part: Part, sizes: dict[str, int]) -> Callable[..., Any]:
    """Build what a part names and check that it can be called; raises UserError."""
    component = component_of(part)
    built = construct(component, with_sizes(component, part.values(), sizes), part)
    if not callable(built):
        raise UserError(
            f"{shown(part.plugin or '')}: {part.class_name}: a {part.kind} is called, and this has no __call__"
        )
    found: Callable[..., Any] = built
    return found


def _check_given(given: Mapping[str, object], taken: Mapping[str, inspect.Parameter], part: Part) -> None:
    """Raise UserError for a name that a constructor does not take, one that it misses, and a number that is none."""
    where = f"{part.name}: parameters"
    plain = {name: own for name, own in taken.items() if own.kind not in (own.VAR_POSITIONAL, own.VAR_KEYWORD)}
    names = [name.removesuffix("_") for name in plain if name not in (*SIZES, "features")]
    takes = f"see {part.class_name}{f' in {shown(part.plugin)}' if part.plugin else ''}"
    missing = [name for name, own in plain.items() if own.default is own.empty and name not in given]
    for name, value in given.items():
        if name not in plain and all(own.kind is not own.VAR_KEYWORD for own in taken.values()):
            meant = missing[0] if len(missing) == 1 else None
            raise unknown_name("parameter", name, names, where=where, meant=meant, also=takes)
        if name in plain and (wanted := _wanted(plain[name].annotation, value)):
            raise UserError(f"{where}: {name}: must be a {wanted}, not {'the text ' * isinstance(value, str)}{value!r}")
    if missing:
        raise UserError(f"{where}: {missing[0].removesuffix('_')} is missing", hint=takes)


def _wanted(annotation: object, value: object) -> str:
    """What a constructor's annotation says that a value must be and is not; empty where it is, or says nothing."""
    kinds = {getattr(kind, "__name__", str(kind)) for kind in get_args(annotation) or (annotation,)}
    if not kinds & {"int", "float"} or kinds & {"str", "bool"}:
        return ""
    if isinstance(value, bool | str):
        return "number" if "float" in kinds else "whole number"
    return "whole number" if "float" not in kinds and isinstance(value, float) and not value.is_integer() else ""


def _parameters(component: Any) -> Mapping[str, inspect.Parameter]:  # noqa: ANN401 - a class
    """What a constructor takes, by name; empty where Python cannot tell."""
    try:
        return inspect.signature(component).parameters
    except (TypeError, ValueError):
        return {}


def plugin_class(part: Part) -> Any:  # noqa: ANN401 - a class from the user's file
    """Load the class from a file in a folder that the user named with --methods-dir; raises UserError."""
    path = Path(part.plugin or "").resolve()
    module = _module(path, part)
    if not hasattr(module, part.class_name):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = f"it defines {', '.join(own)}" if own else "it defines no class"
        raise UserError(f"{shown(path)}: class: defines no {part.class_name!r}", hint=hint)
    component = getattr(module, part.class_name)
    if not callable(component):
        raise UserError(f"{shown(path)}: class: {part.class_name!r} is no class but of type {type(component).__name__}")
    return component


def _module(path: Path, part: Part) -> ModuleType:
    """The module of a plugin, which may import its neighbours both as `helper` and as `.helper`."""
    sha256 = part.plugin_sha256 or ""
    package = f"dmlbench_plugin_{hashlib.sha256(os.fsencode(f'{path.parent} {sha256}')).hexdigest()[:16]}"
    name = f"{package}.{path.stem}"
    if plugin_digest(path) != sha256:
        raise UserError(f"{shown(path)}: plugin: it, or what it imports, has changed since the cell was planned")
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{shown(path)}: plugin: not a Python file")
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
        raise UserError(f"{shown(path)}: plugin: {described(error, part)}") from error
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
        with located(self._part):
            changed = self._transform(image)
        if not isinstance(changed, Tensor) or changed.shape != image.shape or changed.dtype != image.dtype:
            given = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(f"{self._part.name}: must give {image.dtype} {tuple(image.shape)}, gives {given}")
        return changed

    def __getstate__(self) -> dict[str, object]:
        return {"_part": self._part, "_transform": None}
