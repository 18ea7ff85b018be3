"""The boundary where files become specs: safe YAML, and validation errors as one line with file and key."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from dmlbench.errors import UserError, unknown_name

Model = TypeVar("Model", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, not a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in written]
        twice = [str(key) for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            problem = f"key {twice[0]!r} stands twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; raises UserError naming file and line."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error.reason})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}:{line} not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a mapping of keys to values")
    return content


def validate(model: type[Model], content: Any, where: str) -> Model:  # noqa: ANN401 - content of a file
    """Validate `content` against `model`; raises UserError for the first violation, as one line."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _one_line(error, model, where) from error


def _one_line(error: ValidationError, model: type[BaseModel], where: str) -> UserError:
    details = error.errors(include_url=False)
    # An unknown key explains a missing one (a typo makes both), so it is named first.
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    location = first["loc"]
    scalar = len(location) > 1 and location[-1] == "bool"  # the first member of `spec.Scalar`: none of them fits
    key = ".".join(str(part) for part in (location[:-1] if scalar else location))
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        parent = ".".join(str(part) for part in location[:-1])
        known = _fields(model, location[:-1])
        if known:
            return unknown_name("key", str(location[-1]), known, where=f"{where}: {parent}" if parent else where)
        return UserError(f"{where}: {key}: unknown key{more}")
    if scalar:
        return UserError(f"{where}: {key}: must be a finite number, a text, true or false, not {first['input']!r}")
    if first["type"] == "model_type" and (names := _fields(model, location)):
        given = f"{first['input']!r}"
        return UserError(f"{where}: {key}: must be a mapping, not {given}", hint=f"valid keys: {', '.join(names)}")
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    return UserError(f"{where}: {key + ': ' if key else ''}{message}{given}{more}")


def _fields(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Names that are valid at a location, following models, and mappings and tuples of them, by their annotations."""
    annotation: Any = model
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = _without_none(field.annotation) if field else None
        else:  # dict[str, Model] or tuple[Model, ...]
            annotation = next((item for item in get_args(annotation) if item not in (str, ...)), None)
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return []
    return [field.alias or name for name, field in annotation.model_fields.items()]


def _without_none(annotation: Any) -> Any:  # noqa: ANN401 - a type
    members = [member for member in get_args(annotation) if member is not NoneType]
    return members[0] if isinstance(annotation, UnionType) and len(members) == 1 else annotation
