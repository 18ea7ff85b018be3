from typing import Literal

import pytest
from pydantic import Field

from dmlbench.errors import UserError
from dmlbench.method_file import MethodFile
from dmlbench.schema import read_yaml, validate
from dmlbench.spec import InputSpec, Scalar, Section


class Inner(Section):
    width: int
    alias: Literal["a", "b"] = "a"


class Outer(Section):
    inner: Inner
    by_name: dict[str, Inner] = Field(default_factory=dict)
    rows: tuple[Inner, ...] = ()
    options: dict[str, Scalar] = Field(default_factory=dict)
    rate: float = 1.0


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
        ({"iner": {}}, "f: unknown key 'iner'; did you mean 'inner'?; valid: by_name, inner, options, rate, rows"),
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
        ({}, "f: inner: Field required"),
        ({"inner": {"width": "x"}, "rate": "y"}, "f: inner.width: Input should be a valid integer"),
        ({"inner": {"width": 1, "alias": "c"}}, "f: inner.alias: Input should be 'a' or 'b', not 'c'"),
        (
            {"inner": {"width": 1}, "options": {"depth": [1]}},
            "f: options.depth: must be a finite number, a text, true or false, not [1]",
        ),
        ({"inner": {"width": 1}, "rate": float("inf")}, "f: rate: Input should be a finite number, not inf"),
        ({"inner": {"width": 1}, 3: 4}, "f: 3: Keys should be strings"),
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
