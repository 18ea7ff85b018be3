"""The section of a report on what `dmlbench overhead` measured."""

import re
from pathlib import Path

import pytest

from dmlbench.reporting.page import render
from dmlbench.results.measurements import write_measurement
from dmlbench.results.records import Code
from tests.fake_measurements import RATIOS, make_measurement
from tests.reporting.fake_results import make_cell, write_cell


@pytest.fixture
def text(tmp_path):
    """The report of a base and one measurement."""

    def rendered(**changes) -> str:
        write_measurement(tmp_path / "results", make_measurement(processes=3, rounds=10, **changes))
        write_cell(tmp_path / "results", make_cell("ms", 0))
        return (render(tmp_path / "results", "costs", tmp_path) / "report.md").read_text()

    return rendered


def test_it_says_how_and_by_what_it_was_measured(text):
    report = text(command="dmlbench overhead --methods-dir /home/alice/mine --methods ms+psd")
    assert "Geometric means of 3 processes' medians of 10 rounds" in report
    assert "1 CPU thread" in report
    assert "training code 4567" in report
    assert "Command: dmlbench overhead --methods-dir …/mine --methods ms+psd" in report
    assert "alice" not in report


@pytest.mark.parametrize(("digest", "warned"), [("4567", True), ("0123456789abcdef", False)])
def test_results_of_other_code_are_told_of(text, digest, warned):
    report = text(code=Code(digest=digest))
    assert ("The results of this report were made by other training code: 0123456789abcdef." in report) == warned


def test_noise_is_told_of(text):
    report = text(ratios={"ms": 1.0, "ms+psd-mem": 0.9}, arithmetic={"ms+psd-mem": 1.001})
    assert "ms+psd-mem: its interval lies below 1, though it computes no less than its base" in report


def test_the_users_results_folder_is_no_part_of_the_command(text):
    methods = "dmlbench overhead --methods ms+psd"
    assert f"Command: {methods} --rounds 3\n" in text(command=f"{methods} --results ../mine --rounds 3")


def test_a_part_of_the_datasets_has_the_measurements_of_its_protocols(tmp_path):
    root = tmp_path / "results"
    for name in ("conv4-64", "resnet50-128"):
        write_measurement(root, make_measurement(processes=3, rounds=10, protocol=name))
    write_cell(root, make_cell("ms", 0))
    everything, part = (
        (render(root, "costs", tmp_path, only=only) / "report.md").read_text()
        for only in (None, {"dataset": ["glyphs"]})
    )
    assert everything.count("## Cost of a step") == 2
    assert part.count("## Cost of a step") == part.count("## Cost of a step: conv4-64") == 1


def test_measurements_of_one_title_are_told_apart_by_what_differs(tmp_path):
    root = tmp_path / "results"
    some, others = {"ms": 1.0, "ms+psd": 1.3}, {"ms": 1.0, "ms+obdsd": 1.3}
    for number, ratios in enumerate((RATIOS, some, others)):
        write_measurement(root, make_measurement(ratios, rounds=10, started=f"2026-01-02T03:04:0{number}+00:00"))
    text = (render(root, "costs", tmp_path) / "report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## Cost of a step")]
    assert headings == [
        "## Cost of a step: conv4-64, synthetic, on Fast \\& Co (4 methods)",
        "## Cost of a step: conv4-64, synthetic, on Fast \\& Co (2 methods, of 2026-01-02 03:04:01)",
        "## Cost of a step: conv4-64, synthetic, on Fast \\& Co (2 methods, of 2026-01-02 03:04:02)",
    ]


def test_no_table_is_empty(text, tmp_path: Path):
    text()
    assert all(len(path.read_text().splitlines()) > 1 for path in (tmp_path / "costs" / "tables").glob("*.csv"))


def test_measurements_alone_are_a_report(tmp_path):
    write_measurement(tmp_path / "results", make_measurement(processes=3, rounds=10))
    text = (render(tmp_path / "results", "costs", tmp_path / "reports") / "report.md").read_text()
    assert "what a training step costs; no trainings" in text
    assert "| ms+psd |" in text
    page = (tmp_path / "reports" / "costs" / "index.html").read_text()
    assert re.search(r'<details class="section" id="cost[^>]* open>', page)  # else the page would be closed and empty
