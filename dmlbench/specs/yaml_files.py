"""The boundary where files become specs: safe YAML, paths, and validation errors as one line with file and key.

Numbers are Python's: `1e-3`, `1_000` and `0x1F` are numbers; `true`, `false` and `null` are what they say; a date is a
text. What YAML 1.1 took for a number or a truth and Python does not, such as `yes`, `010` or `1:30`, is an error
until it is in quotes: read as a text it would change what a file says without a word.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from dmlbench.errors import UserError, unknown_name

Model = TypeVar("Model", bound=BaseModel)
MOST_DEPTH, MOST_VALUES = 32, 1_000_000  # of a file's content: aliases can make a page hold billions
MOST_INT, MOST_DIGITS = 2**63, 100
TAG = "tag:yaml.org,2002:"
OLD = "!old"  # what version 1.1 reads as more than a text, and Python does not
DIGITS = "[0-9](?:_?[0-9])*"
EXPONENT = f"[eE][-+]?{DIGITS}"
INT = re.compile("[-+]?(?:0(?:_?0)*|[1-9](?:_?[0-9])*|0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+)$")
FLOAT = re.compile(
    rf"[-+]?(?:{DIGITS}\.(?:{DIGITS})?(?:{EXPONENT})?|\.{DIGITS}(?:{EXPONENT})?|{DIGITS}{EXPONENT}|\.(?:inf|Inf|INF))$"
    r"|\.(?:nan|NaN|NAN)$"
)
PLAIN = {  # what is no text without quotes: tag, pattern and first characters
    "null": (re.compile("(?:~|null|Null|NULL|)$"), "~nN"),
    "bool": (re.compile("(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "int": (INT, "-+0123456789"),
    "float": (FLOAT, "-+.0123456789"),
    "merge": (re.compile("<<$"), "<"),
}

WORDS = {  # of pydantic's kinds of violations, by what they begin with
    "missing": "is missing",
    "int_": "must be a whole number",
    "float_": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern": "must be {form}",
    "bool_": "must be true or false",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "too_short": "needs {min_length} or more values",
    "too_long": "takes at most {max_length} values",
    "invalid_key": "a key must be a text",
}
FORMS = {  # of patterns
    r"^[a-z0-9][a-z0-9_-]*$": "small letters, digits, _ and -",
    r"^[a-z0-9][a-z0-9_-]*\+[a-z0-9][a-z0-9_-]*$": "BASE+MODIFIER",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, '.', _ and -",
    r"^[1-9]\d*(,[1-9]\d*)*$": "whole numbers with commas between, such as 512,1024",
    r"^[^\n\r]+$": "one line of text",
}


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML of plain data, in which a key given twice is an error, not a silent overwrite."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own
    yaml_constructors = {  # noqa: RUF012 - PyYAML's own
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(f"{TAG}{name}" for name in ("null", "str", "seq", "map")), None)
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key for key, _ in node.value if key.tag != f"{TAG}merge"]
        keys = [self.construct_object(key, deep=True) for key in written]
        twice = [str(key) for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            problem = f"key {twice[0]!r} stands twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_plain(self, node: yaml.ScalarNode) -> bool | int | float:
        """True, false or a number, whether its tag was written or found."""
        text, kind = str(self.construct_scalar(node)), node.tag.removeprefix(TAG)
        if not PLAIN[kind][0].match(text) and not (kind == "float" and INT.match(text)):
            raise yaml.constructor.ConstructorError(None, None, f"{text!r} is no {kind}", node.start_mark)
        if kind == "bool":
            return text.lower() == "true"
        if kind == "float":  # YAML writes a dot before infinity
            return float(re.sub(r"^([-+]?)\.(?=[iInN])", r"\1", text)) + 0.0  # which makes -0.0 plain 0.0
        if len(text) > MOST_DIGITS or abs(value := int(text, 0)) >= MOST_INT:
            raise yaml.constructor.ConstructorError(None, None, "a number of more than 64 bits", node.start_mark)
        return value

    def construct_old(self, node: yaml.ScalarNode) -> None:
        """What only YAML 1.1 has: raises."""
        problem = f"{node.value!r} is no number of Python's and no plain text: quote it, or write true, false or 1"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _tag, (_pattern, _first) in PLAIN.items():
    _UniqueKeyLoader.add_implicit_resolver(f"{TAG}{_tag}", _pattern, [*_first, *([""] if _tag == "null" else [])])
for _character, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():  # after ours: what those leave over
    for _old, _pattern in _resolvers:
        if _old.removeprefix(TAG) in ("bool", "int", "float"):
            _UniqueKeyLoader.add_implicit_resolver(OLD, _pattern, [_character])
_UniqueKeyLoader.add_constructor(OLD, _UniqueKeyLoader.construct_old)
for _tag in ("bool", "int", "float"):
    _UniqueKeyLoader.add_constructor(f"{TAG}{_tag}", _UniqueKeyLoader.construct_plain)


# Ten times as fast, where PyYAML was built with C. A text such as 1e-3 in a spec of an older dmlbench stays one.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
BYTES = re.compile(r"\\u[dD][c-fC-F]")  # how a byte of a name that is not UTF-8 is written; C reads none


class _Dumper(yaml.SafeDumper):
    """Writes what both this loader and one of YAML 1.1 read back: a text that either takes for a number is quoted."""


class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc] # ten times as fast in C
    """The same, without names that are not UTF-8."""


for _dumper in (_Dumper, _FastDumper):
    _dumper.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+.0123456789"))
    _dumper.add_implicit_resolver(f"{TAG}int", INT, list("-+0123456789"))


def dump(content: Any, *, allow_unicode: bool = False, width: int | None = None) -> str:  # noqa: ANN401 - YAML's content
    """Content as YAML text that `parse` and `parse_written` read back, also of names of files that are not UTF-8."""
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": allow_unicode, "width": width}
    try:
        return str(yaml.dump(content, Dumper=_FastDumper, **options))
    except UnicodeEncodeError:
        return str(yaml.dump(content, Dumper=_Dumper, **options))


def parse(text: str) -> Any:  # noqa: ANN401 - YAML's content
    """The content of YAML text; raises ValueError with the reason in a line, whatever the text is."""
    with _in_a_line():
        content = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a safe one
        _check_size(content)
        return content


def parse_written(text: str) -> Any:  # noqa: ANN401 - YAML's content
    """The content of YAML that a program wrote, by version 1.1 as older ones did; raises ValueError likewise."""
    if BYTES.search(text):  # only releases that write for both rules write such names
        return parse(text)
    with _in_a_line():
        content = yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe one
        _check_size(content)
        return content


# Method files are read for every name that is made of them, and parsing takes most of the time of resolving a name.
_parsed = lru_cache(maxsize=512)(parse)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; raises UserError naming file and line."""
    try:
        content = deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error.reason})") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a mapping of keys to values")
    return content


def path_of(text: str | Path, where: str) -> Path:
    """A path that a user named, with `~`; raises UserError where no file system can hold it or nobody has that home."""
    try:
        path = Path(text).expanduser()
        path.exists()  # it raises for a name that is too long
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where} {str(text)!r}: no usable path ({reason})") from error
    return path


def validate(model: type[Model], content: Any, where: str) -> Model:  # noqa: ANN401 - content of a file
    """Validate `content` against `model`; raises UserError for the first violation, as one line."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _one_line(error, model, where) from error


def in_words(violation: Mapping[str, Any]) -> str:
    """What pydantic says of a value, for those who never heard of it: `must be above 0`."""
    details, kind = violation.get("ctx", {}), violation["type"]
    words = next((words for prefix, words in WORDS.items() if kind.startswith(prefix)), None)
    if words is None:
        return str(violation["msg"]).removeprefix("Value error, ")
    plain = {name: int(own) if isinstance(own, float) and own.is_integer() else own for name, own in details.items()}
    return words.format(**plain, form=FORMS.get(details.get("pattern"), "of another form"))


def _one_line(error: ValidationError, model: type[BaseModel], where: str) -> UserError:
    details = error.errors(include_url=False)
    # An unknown key explains a missing one (a typo makes both), so it is named first.
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    location, kind = first["loc"], first["type"]
    scalar = len(location) > 1 and location[-1] == "bool"  # the first member of `spec.Scalar`: none of them fits
    short = kind == "missing" and isinstance(location[-1], int)  # a list that ends too early
    unnamed = scalar or short or location[-1:] in (("[key]",), ("constrained-int",))
    key = ".".join(str(part) for part in (location[:-1] if unnamed else location))
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if kind == "extra_forbidden":
        parent = ".".join(str(part) for part in location[:-1])
        if known := _fields(model, location[:-1]):
            missing = [item["loc"][-1] for item in details if item["type"] == "missing"]
            meant = str(missing[0]) if len(missing) == 1 and missing[0] in known else None
            where = f"{where}: {parent}" if parent else where
            return unknown_name("key", str(location[-1]), known, where=where, meant=meant)
        return UserError(f"{where}: {key}: unknown key{more}")
    if scalar:
        return UserError(f"{where}: {key}: must be a finite number, a text, true or false, not {first['input']!r}")
    if kind == "model_type" and (names := _fields(model, location)):
        given = f"{first['input']!r}"
        return UserError(f"{where}: {key}: must be a mapping, not {given}", hint=f"valid keys: {', '.join(names)}")
    message = "a key must be a text" if "[key]" in location else "has too few values" if short else in_words(first)
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


@contextmanager
def _in_a_line() -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1} " if mark else ""
        raise ValueError(f"{line}not valid YAML ({getattr(error, 'problem', None) or error})") from error
    except RecursionError as error:
        raise ValueError("not valid YAML (nested too deeply)") from error
    except Exception as error:  # what a parser raises of foreign content is of many kinds
        raise ValueError(f"not valid YAML ({error or type(error).__name__})") from error


def _check_size(content: Any) -> None:  # noqa: ANN401 - any content
    """Raise ValueError where values are nested without end, or more than any file of ours."""
    level, seen = [content], 0
    for _ in range(MOST_DEPTH):
        seen += sum(len(_children(value)) for value in level)
        if seen > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _children(value: Any) -> list[Any]:  # noqa: ANN401 - any content
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _without_none(annotation: Any) -> Any:  # noqa: ANN401 - a type
    members = [member for member in get_args(annotation) if member is not NoneType]
    return members[0] if isinstance(annotation, UnionType) and len(members) == 1 else annotation
