import re
from typing import Literal

import pytest
from pydantic import Field

from dmlbench.errors import UserError
from dmlbench.specs.cell import Section
from dmlbench.specs.method import MethodFile, Name
from dmlbench.specs.protocol_spec import InputSpec, Scalar
from dmlbench.specs.yaml_files import dump, parse, parse_written, path_of, read_yaml, validate


class Inner(Section):
    width: int
    alias: Literal["a", "b"] = "a"


class Outer(Section):
    inner: Inner
    by_name: dict[str, Inner] = Field(default_factory=dict)
    rows: tuple[Inner, ...] = ()
    options: dict[str, Scalar] = Field(default_factory=dict)
    rate: float = 1.0
    title: Name = "a"
    flag: bool = False
    pair: tuple[int, int] = (1, 2)
    share: float = Field(0.0, lt=1)


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "file.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_reads_a_mapping(written):
    assert read_yaml(written("a: 1\nb: {c: [x, é]}\n")) == {"a": 1, "b": {"c": ["x", "é"]}}


def test_merge_keys_are_no_duplicates(written):
    content = read_yaml(written("base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n"))
    assert content["more"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "key 'a' stands twice"),
        ("a: 1\nb:\n  c: 1\n  c: 1\n", "line 3 not valid YAML (key 'c' stands twice)"),
        ("a: 1\nb: [1,\n", "line 3 not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1 not valid YAML (could not determine a constructor"),
        ("- a\n", "must hold a mapping"),
        ("", "must hold a mapping"),
        (b"a: \xff\xfe\n", "not a text file"),
    ],
)
def test_one_line_for_a_file_that_is_no_mapping(written, content, message):
    path = written(content)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:")
    assert message in text
    assert "\n" not in text


def test_a_missing_file_and_a_folder_cannot_be_read(tmp_path):
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"iner": {}},
            "f: unknown key 'iner'; did you mean 'inner'?; valid: by_name, flag, inner, ",
        ),
        (
            {"inner": {"width": 1, "widht": 2}},
            "f: inner: unknown key 'widht'; did you mean 'width'?; valid: alias, width",
        ),
        (
            {"inner": {"width": 1}, "by_name": {"x": {"width": 1, "alas": "a"}}},
            "f: by_name.x: unknown key 'alas'; did you mean 'alias'?; valid: alias, width",
        ),
        (
            {"inner": {"width": 1}, "rows": [{"width": 1}, {"wide": 1}]},
            "f: rows.1: unknown key 'wide'; did you mean 'width'?; valid: alias, width",
        ),
        ({}, "f: inner: is missing"),
        ({"inner": {"width": "x"}, "rate": "y"}, "f: inner.width: must be a whole number"),
        ({"inner": {"width": 1, "alias": "c"}}, "f: inner.alias: must be 'a' or 'b', not 'c'"),
        (
            {"inner": {"width": 1}, "options": {"depth": [1]}},
            "f: options.depth: must be a finite number, a text, true or false, not [1]",
        ),
        ({"inner": {"width": 1}, "rate": float("inf")}, "f: rate: must be a finite number, not inf"),
        ({"inner": {"width": 1}, "by_names": {}}, "f: unknown key 'by_names'; did you mean 'by_name'?"),
        ({"values": {"width": 1}}, "f: unknown key 'values'; did you mean 'inner'?; valid: "),
        ({"inner": {"width": 1.5}}, "f: inner.width: must be a whole number, not 1.5"),
        ({"inner": {"width": 1}, "rows": 3}, "f: rows: must be a list, not 3"),
        ({"inner": {"width": 1}, "by_name": [1]}, "f: by_name: must be a mapping of keys to values, not [1]"),
        ({"inner": {"width": 1}, "options": {3: 4}}, "f: options.3: a key must be a text, not 3"),
        ({"inner": {"width": 1}, "title": 3}, "f: title: must be a text, not 3"),
        ({"inner": {"width": 1}, "title": "a b"}, "f: title: must be small letters, digits, _ and -, not 'a b'"),
        ({"inner": {"width": 1}, "flag": "x"}, "f: flag: must be true or false, not 'x'"),
        ({"inner": {"width": 1}, "pair": [1]}, "f: pair: has too few values, not [1]"),
        ({"inner": {"width": 1}, "pair": [1, 2, 3]}, "f: pair: takes at most 2 values, not [1, 2, 3]"),
        ({"inner": {"width": 1}, "share": 1}, "f: share: must be below 1, not 1"),
        ({"inner": {"width": 1}, 3: 4}, "f: 3: a key must be a text"),
    ],
)
def test_one_line_with_file_and_key(content, message):
    with pytest.raises(UserError) as caught:
        validate(Outer, content, "f")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_further_errors_are_counted():
    with pytest.raises(UserError, match=r"\(and 1 more\)$"):
        validate(Outer, {"inner": {"width": "x"}, "rate": "y"}, "f")


def test_a_models_own_rule_reads_like_the_others():
    content = {"channels": 3, "size": 16, "resize": 16, "mean": [0], "std": [1], "augmentation": "none"}
    with pytest.raises(UserError, match=r"^f: mean and std need one value per channel \(3\)$"):
        validate(InputSpec, content, "f")


def test_aliases_are_the_keys_that_are_named():
    with pytest.raises(UserError, match="did you mean 'class'") as caught:
        validate(MethodFile, {"clas": "x"}, "f")
    assert "class_name" not in str(caught.value)


def test_a_value_in_a_mappings_place_names_its_keys():
    with pytest.raises(UserError, match=r"^f: inner: must be a mapping, not 3; valid keys: width, alias$"):
        validate(Outer, {"inner": 3}, "f")
    with pytest.raises(UserError, match=r"^f: by_name\.x: must be a mapping, not 0\.2; valid keys: width, alias$"):
        validate(Outer, {"inner": {"width": 1}, "by_name": {"x": 0.2}}, "f")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-.5e-3", -0.0005), ("1.", 1.0), ("1_000", 1000), ("+1", 1), ("0x1F", 31),
        ("0o17", 15), ("0b11", 3), ("00", 0), (".inf", float("inf")), ("2e3", 2000.0), ("1e", "1e"), ("08", "08"),
        ("true", True), ("False", False), ("null", None), ("", None), ("y", "y"), ("nan", "nan"), ("1.2.3", "1.2.3"),
        ("2026-01-31", "2026-01-31"), ("2026-13-45", "2026-13-45"), ("'1e-3'", "1e-3"), ("1,000", "1,000"),
        (str(2**63 - 1), 2**63 - 1),
    ],
)  # fmt: skip
def test_numbers_are_pythons(text, value):
    found = parse(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["yes", "No", "on", "OFF", "010", "-017", "1:30", "1:30.5", "1_"])
def test_what_only_older_yaml_reads_as_more_than_a_text_is_refused(text):
    """Read as a text it would change a file's meaning, as a value it would not be what Python says."""
    problem = f"^line 2 not valid YAML .'{re.escape(text)}' is no number of Python's and no plain text: quote it"
    with pytest.raises(ValueError, match=problem):
        parse(f"b: 1\na: {text}")
    assert parse(f"a: '{text}'") == {"a": text}


@pytest.mark.parametrize(
    "value", ["1e-3", "0o17", "1e5", "yes", "010", "1:30", "2026-01-31", "null", "a: b", 1e-5, 3, True, None]
)
def test_what_is_written_is_read_back_by_old_and_new_rules(value):
    text = dump({"a": value})
    assert parse(text) == parse_written(text) == {"a": value}


@pytest.mark.parametrize("read", [parse, parse_written])
@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5000,
        "{a: " * 5000,
        "a: " + "9" * 6000,
        "a: !!int x",
        "a: !!int ''",
        "a: !!bool x",
        "a: !!float x",
        "a: !!timestamp 2026-99-99",
        "a: &a [*a]",
        "? [1, 2]\n: 3",
        "a: \0",
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{n}: &{n} [{','.join([f'*{m}'] * 10)}]\n" for m, n in zip("abcdefghi", "bcdefghij", strict=True)),
    ],
)
def test_whatever_the_text_is_the_reason_is_one_line(text, read):
    with pytest.raises(ValueError, match="not valid YAML") as caught:
        read(text)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["inner.width", "rate"])
@pytest.mark.parametrize("value", [True, "3", "1e9", float("nan"), 1e300, None])
def test_a_number_is_a_number(key, value):
    content = {"inner": {"width": 1}} | ({"rate": value} if key == "rate" else {"inner": {"width": value}})
    if (key, value) == ("rate", 1e300):
        assert validate(Outer, content, "f").rate == 1e300
        return
    with pytest.raises(UserError, match=rf"^f: {key}: must be a [a-z0-9 ]+, not {re.escape(repr(value))}$"):
        validate(Outer, content, "f")


@pytest.mark.parametrize("text", ["~nosuchuser/x", "n" * 300])
def test_a_path_that_no_system_has(text):
    with pytest.raises(UserError, match=f"^--there '{text}': no usable path"):
        path_of(text, "--there")


def test_a_folder_whose_name_is_not_utf_8_is_written_and_read_back():
    content = {"root": "caf\udce9/a b", "skipped": ["\udcff.png"], "text": "é 1e-3"}
    text = dump(content, allow_unicode=True)
    text.encode("utf-8")
    assert parse_written(text) == parse(text) == content
