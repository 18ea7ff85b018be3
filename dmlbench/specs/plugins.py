"""A user's Python beside a method file: where it is, and the digest of all of its folder that it imports."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from dmlbench.errors import UserError
from dmlbench.specs.yaml_files import path_of

LOADED_FOLDERS: set[str] = set()  # of plugins that this process has imported: the last one is on `sys.path`


def shown(path: str | Path) -> str:
    """A path for people: from the working folder where it lies below it, as users name it."""
    return str(Path(path).relative_to(Path.cwd()) if Path(path).is_relative_to(Path.cwd()) else path)


def plugin_path(name: str, folder: Path, method: str) -> Path:
    """The plugin file that a method file in a folder names.

    Raises:
        UserError: where there is no such file beside the method file.
    """
    path = path_of(folder / name, "plugin:").resolve()
    if path.parent != folder.resolve() or not path.is_file():
        why = "must be beside its YAML" if path.is_file() else f"no such file beside {method}'s YAML"
        raise UserError(f"{folder / name}: plugin: {why}")
    return path


def plugin_digest(path: Path) -> str:
    """The SHA-256 of a plugin: of the file, or of it and all files of its folder that it imports.

    Raises:
        UserError: where one cannot be read, or is imported from above the folder.
    """
    found, waiting = {path: _read(path)}, [path]
    while waiting:
        for file in _imported(waiting.pop(), path.parent, found):
            if file not in found:
                found[file] = _read(file)
                waiting.append(file)
    folder = path.parent
    digests = {file.relative_to(folder).as_posix(): hashlib.sha256(own).hexdigest() for file, own in found.items()}
    if len(digests) == 1:
        return digests[path.name]
    return hashlib.sha256(json.dumps([path.name, sorted(digests.items())]).encode()).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{shown(path)}: plugin: cannot be read ({error.strerror})") from error


def _imported(path: Path, folder: Path, contents: dict[Path, bytes]) -> Iterator[Path]:
    """Files of the folder that a file imports; of a package all files, for what it imports itself may be any."""
    try:
        statements = list(ast.walk(ast.parse(contents[path])))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # loading it says what is wrong
    for node in statements:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            if path.parent == folder and node.level > 1:
                raise UserError(
                    f"{shown(path)}: plugin: imports from above its folder", hint="move what it needs into it"
                )
            yield from _files((node.module or "").partition(".")[0] or [alias.name for alias in node.names], folder)
            continue
        else:
            continue
        yield from _files([name for name in names if _is_beside(name.partition(".")[0], folder)], folder)


def _files(names: str | list[str], folder: Path) -> Iterator[Path]:
    for name in [names] if isinstance(names, str) else names:
        top = name.partition(".")[0]
        if (file := folder / f"{top}.py").is_file():
            yield file
        if top and (folder / top).is_dir():
            yield from sorted((folder / top).rglob("*.py"))


def _is_beside(module: str, folder: Path) -> bool:
    """Whether a module comes from a folder; one of that name which is installed comes first."""
    if not (folder / f"{module}.py").is_file() and not (folder / module).is_dir():
        return False
    if module in sys.stdlib_module_names:
        return False
    elsewhere = [entry for entry in sys.path if entry not in LOADED_FOLDERS]
    found = PathFinder.find_spec(module, elsewhere)  # not `find_spec`, which knows what an earlier plugin imported
    origin = found.origin if found else None
    return origin is None or Path(origin).is_relative_to(folder)
