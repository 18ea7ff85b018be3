import pytest

from dmlbench.errors import UserError, unknown_name


def test_a_hint_follows_a_semicolon():
    assert str(UserError("a.yaml: title: is missing")) == "a.yaml: title: is missing"
    assert str(UserError("a.yaml: title: is missing", hint="add it")) == "a.yaml: title: is missing; add it"


def test_the_nearest_name_stands_before_all_valid_names():
    error = unknown_name("method", "mss", ["triplet", "ms"], where="a.yaml", command="dmlbench list methods")
    assert str(error) == (
        "a.yaml: unknown method 'mss'; did you mean 'ms'?; valid: ms, triplet; see `dmlbench list methods`"
    )


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        (["alpha", "beta"], "unknown key 'zzz'; valid: alpha, beta"),
        (iter(["beta", "alpha"]), "unknown key 'zzz'; valid: alpha, beta"),
        ([], "unknown key 'zzz'; there are none"),
    ],
)
def test_no_guess_where_nothing_is_near(valid, message):
    assert str(unknown_name("key", "zzz", valid)) == message


def test_case_is_no_other_name():
    assert "did you mean 'ms'?" in str(unknown_name("method", "MS", ["ms", "margin"]))
