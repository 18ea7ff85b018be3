"""Figures, records and the saved report."""

import json
import math
from importlib import import_module

import pytest

from dmlbench.errors import UserError
from dmlbench.results.records import Code, Environment
from dmlbench.selftest.records import CheckRecord, Figure, Outcome, Report, save
from dmlbench.selftest.table import CHECKS

ENVIRONMENT = Environment(
    machine="abc", device="cuda:0", cpu="Fast & Co", gpu="NVIDIA H100 80GB", torch="2.9", cuda="13"
)


def make_report(*checks: CheckRecord) -> Report:
    return Report(
        started="2026-01-02T03:04:05+00:00",
        device="cuda:0",
        minutes=5,
        seconds=12.3,
        environment=ENVIRONMENT,
        code=Code(digest="4567"),
        checks=checks,
    )


def record(*figures: Figure, name="losses", note="") -> CheckRecord:
    return CheckRecord.of(name, f"what {name} shows", Outcome(figures=figures, note=note), 1.5)


SKIPPED = CheckRecord(name="waits", title="no waits", status="skipped", reason="no time left (--minutes 5)")
GOOD = Figure(name="error", value=1e-6, at_most=1e-5)
BAD = Figure(name="gap | a", value=math.nan, at_most=1e-5)


@pytest.mark.parametrize(
    ("value", "bounds", "holds"),
    [
        (1.0, {"at_most": 1}, True), (1.1, {"at_most": 1}, False), (0, {"at_most": 0}, True),
        (1, {"at_most": 0}, False), (-1, {"at_most": 0}, True),
        (2.0, {"at_least": 1}, True), (0.9, {"at_least": 1}, False), (0, {"at_least": 1}, False),
        (1, {"at_least": 1, "at_most": 1}, True), (2, {"at_least": 1, "at_most": 1}, False),
        (math.nan, {"at_most": 1}, False), (math.nan, {"at_least": 1}, False), (math.inf, {"at_most": 1}, False),
        (math.nan, {}, True), (5.0, {}, True),
    ],
)  # fmt: skip
def test_a_figure_keeps_its_bounds_or_not(value, bounds, holds):
    assert Figure(name="error", value=value, **bounds).holds is holds


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (GOOD, "error: 1e-06 (at most 1e-05)"),
        (Figure(name="rate", value=1234.5, unit="images/s"), "rate: 1,234 images/s"),
        (Figure(name="times", value=1, at_least=1, at_most=1), "times: 1 (at least 1, at most 1)"),
        (Figure(name="ratio", value=1.3333, at_most=2), "ratio: 1.33 (at most 2)"),
        (BAD, "gap | a: nan (at most 1e-05)"),
    ],
)
def test_a_figure_in_words(figure, text):
    assert figure.text == text


def test_a_record_fails_where_one_figure_does_and_names_it():
    assert (record(GOOD).status, record(GOOD).reason) == ("pass", "")
    failed = record(GOOD, BAD, Figure(name="rate", value=3.0), note="slow")
    assert (failed.status, failed.reason) == ("fail", BAD.text)
    assert failed.lines == [BAD.text, "slow"]
    assert record(*[BAD] * 9).reason.endswith("and 3 more")


def test_a_check_that_holds_nothing_to_a_bound_passes_nothing():
    unbounded = record(Figure(name="rate", value=3.0))
    assert (unbounded.status, unbounded.reason) == ("fail", "no figure has a bound, so nothing was checked")


def test_of_many_figures_the_nearest_to_its_bound_is_shown():
    many = record(*(Figure(name=f"f{value}", value=value, at_most=10) for value in range(9)))
    assert many.lines == ["9 figures, nearest to its bound: f8: 8 (at most 10)"]
    assert record(GOOD, Figure(name="rate", value=3.0)).lines == [GOOD.text, "rate: 3"]


def test_a_report_is_written_whole_and_read_back(tmp_path):
    report = make_report(record(GOOD, name="metrics"), record(BAD), SKIPPED)
    folder = save(tmp_path, report)
    assert folder == tmp_path / "selftest" / "20260102-030405-nvidia-h100-80gb"
    text = (folder / "report.json").read_text()
    assert "NaN" not in text.replace('"NaN"', "")
    assert json.loads(text)["version"] == 1
    again = Report.model_validate_json(text)
    assert [check.status for check in again.checks] == ["pass", "fail", "skipped"]
    assert again.checks[0] == report.checks[0]
    assert math.isnan(again.checks[1].figures[0].value)
    assert again.verdict == "1 passed, 1 failed, 1 skipped in 12 s"
    page = (folder / "report.md").read_text()
    assert "# Self-test of NVIDIA H100 80GB (cuda:0)" in page
    assert "| losses | fail | what losses shows | gap \\| a: nan (at most 1e-05) | 1.5 |" in page
    assert "torch 2.9, cuda 13" in page


def test_a_report_of_another_version_is_none(tmp_path):
    text = (save(tmp_path, make_report(SKIPPED)) / "report.json").read_text()
    with pytest.raises(ValueError, match="version"):
        Report.model_validate_json(text.replace('"version": 1', '"version": 2'))


def test_nothing_is_overwritten(tmp_path):
    first = save(tmp_path, make_report(record(GOOD)))
    before = (first / "report.json").read_bytes()
    second, third = (save(tmp_path, make_report(SKIPPED)) for _ in range(2))
    assert [second.name, third.name] == [f"{first.name}-2", f"{first.name}-3"]
    assert (first / "report.json").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "selftest").write_text("a file")
    with pytest.raises(UserError, match=r"selftest: cannot be written \(.*\); name another --results"):
        save(tmp_path, make_report(SKIPPED))


def test_the_table_names_functions_that_are_there():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert callable(getattr(import_module(check.module), check.function))
        assert check.seconds > 0
        assert check.most == 0 or check.most > check.seconds
