import pytest

from dmlbench.errors import UserError, counted, inflected, one_line, printable, unknown_name
from dmlbench.runner.progress import plain_or_wide

NASTY = "a\x1b[31m\u202eb\udcff\x07é"
SHOWN = "a\\x1b[31m\\u202eb\\udcff\\x07é"


def test_control_characters_are_shown_and_not_obeyed():
    assert printable(NASTY) == SHOWN
    assert printable("a\tb\n", keep="\n") == "a\\tb\n"
    assert str(UserError(NASTY, hint=NASTY)) == f"{SHOWN}; {SHOWN}"


def test_also_in_what_is_printed_of_a_run(capsys):
    plain_or_wide().print("name \x1b[2J\u202e", markup=False, soft_wrap=True)
    assert capsys.readouterr().out == "name \\x1b[2J\\u202e\n"


def test_a_message_is_one_line_however_long_what_it_quotes():
    error = str(UserError(f"--set {'x' * 6000!r}: no\n  second line", hint="do this"))
    assert error.startswith("--set 'xxx")
    assert error.endswith("': no second line; do this")
    assert len(error) < 1200
    assert one_line("short") == "short"
    assert "and 50 more" in str(unknown_name("class", "x", [f"name{n}" for n in range(100)]))


@pytest.mark.parametrize(("number", "text"), [(0, "0 cells"), (1, "1 cell"), (2, "2 cells")])
def test_a_noun_goes_with_its_number(number, text):
    assert counted(number, "cell") == text
    assert counted(number, "class", "classes").endswith("class" if number == 1 else "classes")
    assert inflected(number, "has", "have") == ("has" if number == 1 else "have")
