"""`dmlbench overhead`, its result and its place in a report."""

import json
from pathlib import Path

import pytest

from dmlbench.results.measurements import UNFOLDED_MARK
from dmlbench.specs.cell import EVAL_TEACHER
from tests.e2e.conftest import TINY, Command

FEW = ("--processes", "2", "--rounds", "10")
SMALL = ("--protocol", "conv4-64", *TINY, *FEW)


@pytest.mark.slow
def test_costs_are_measured_twice_and_reported_without_any_cell(dmlbench: Command, tmp_path: Path) -> None:
    command = ("overhead", "--methods", "ms+obdsd-mem", *SMALL, "--synthetic")
    done = dmlbench(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 methods, 2 x 10 rounds after 3 to warm up" in done.stdout  # with their base
    (file,) = (tmp_path / "results" / "runs" / "overhead").glob("*.json")
    content = json.loads(file.read_text())
    assert list(content["methods"]) == ["ms", "ms+obdsd-mem"]
    assert content["dataset"] == "synthetic"
    assert all(len(method["step_ms"]) == 20 for method in content["methods"].values())
    assert content["methods"]["ms+obdsd-mem"]["phases_ms"]["teacher"]
    assert content["command"].startswith("dmlbench overhead --methods ms+obdsd-mem")
    assert (content["cpu_threads"], content["processes"]) == (1, 2)

    again = dmlbench(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert sum("agrees with" in line or "DISAGREES with" in line for line in again.stdout.splitlines()) == 1
    assert len(list(file.parent.glob("*.json"))) == 2

    page = dmlbench("report", "--name", "costs", "--only", "protocol=conv4-64", "--only", "method=ms+obdsd-mem")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "reports" / "costs" / "report.md").read_text()
    assert text.count("## Cost of a step: conv4-64") == 1
    assert "| ms+obdsd-mem |" in text
    assert "new: in no paper" in text
    assert "over seeds" not in text  # of costs alone there is nothing else to explain
    tables = {path.name for path in (tmp_path / "reports" / "costs" / "tables").glob("*.csv")}
    assert tables == {"dictionary.csv", "measured.csv"}
    assert len((tmp_path / "reports" / "costs" / "tables" / "measured.csv").read_text().splitlines()) == 1 + 2 * 2


@pytest.mark.slow
def test_costs_on_a_datasets_own_images(dmlbench: Command, tmp_path: Path) -> None:
    done = dmlbench(
        "overhead", "--methods", "margin+psd", "--dataset", "glyphs", *TINY, "--processes", "1", "--rounds", "10",
        "--set", "distillation.teacher_mode=eval",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "results" / "runs" / "overhead").glob("conv4-64_glyphs_*.json")
    content = json.loads(file.read_text())
    assert content["dataset"] == "glyphs"
    assert list(content["methods"]) == ["margin", "margin+psd", "margin+psd{unfolded}"]
    marks = content["methods"]["margin+psd{unfolded}"]["marks"]
    assert marks[-1] == UNFOLDED_MARK
    assert EVAL_TEACHER in marks


def test_one_clear_line(dmlbench: Command, tmp_path: Path) -> None:
    done = dmlbench("overhead", "--methods", "ms", "--dataset", "glyphs", "--synthetic")
    assert done.returncode == 2
    assert done.stderr == "error: --dataset and --synthetic exclude each other; leave out one\n"
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_damaged_measurement_is_named_and_left_out(dmlbench: Command, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "runs" / "overhead"
    folder.mkdir(parents=True)
    (folder / "old.json").write_text("{")
    for command, code in (("report",), 2), (("overhead", "--methods", "ms", *SMALL), 1), (("report",), 1):
        done = dmlbench(*command)
        assert done.returncode == code
        assert done.stderr.count("old.json: not a readable measurement") == 1
        assert "Traceback" not in done.stderr
    assert (tmp_path / "reports" / "report" / "index.html").is_file()
    assert len(list(folder.glob("*.json"))) == 2
