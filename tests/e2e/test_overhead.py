"""`dmlbench overhead`, its result and its place in a report."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Command

SMALL = ("--protocol", "conv4-64", *TINY, "--rounds", "5")


def test_costs_are_measured_twice_and_reported_without_any_cell(dmlbench: Command, tmp_path: Path) -> None:
    command = ("overhead", "--methods", "ms+psd,ms+obdsd-mem", *SMALL, "--synthetic")
    done = dmlbench(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 methods, 5 rounds after 3 to warm up" in done.stdout  # with their base
    (file,) = (tmp_path / "results" / "runs" / "overhead").glob("*.json")
    content = json.loads(file.read_text())
    assert list(content["methods"]) == ["ms", "ms+psd", "ms+obdsd-mem"]
    assert content["dataset"] == "synthetic"
    assert all(len(method["step_ms"]) == 5 for method in content["methods"].values())
    assert content["methods"]["ms+psd"]["phases_ms"]["teacher"]

    again = dmlbench(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert sum("agrees with" in line or "DISAGREES with" in line for line in again.stdout.splitlines()) == 2
    assert len(list(file.parent.glob("*.json"))) == 2

    page = dmlbench("report", "--name", "costs", "--only", "protocol=conv4-64", "--only", "method=ms+psd,ms+obdsd-mem")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "reports" / "costs" / "report.md").read_text()
    assert text.count("## Cost of a step: conv4-64") == 1
    assert "| ms+obdsd-mem |" in text
    assert "new: in no paper" in text
    assert len((tmp_path / "reports" / "costs" / "tables" / "measured.csv").read_text().splitlines()) == 1 + 2 * 3


@pytest.mark.slow
def test_costs_on_a_datasets_own_images(dmlbench: Command, tmp_path: Path) -> None:
    done = dmlbench("overhead", "--methods", "margin+psd", "--dataset", "glyphs", *TINY, "--rounds", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "results" / "runs" / "overhead").glob("conv4-64_glyphs_*.json")
    assert json.loads(file.read_text())["dataset"] == "glyphs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "ms"), "--protocol: synthetic images need one; for example --protocol conv4-64"),
        (("--methods", "ms", "--dataset", "glyphs", "--synthetic"), "--dataset and --synthetic exclude each other"),
        (("--methods", "ms+pds", *SMALL), "'ms+pds': unknown method 'pds'; did you mean 'psd'?"),
        (("--methods", "ms", *SMALL, "--set", "distillation.tau=2"), "no chosen method has this parameter"),
        (("--methods", "ms", "--dataset", "glyhps"), "unknown dataset 'glyhps'; did you mean 'glyphs'?"),
        (("--methods", "ms", "--protocol", "conv4-64", "--rounds", "2"), "2 is not in the range x>=5"),
        (("--methods", "ms+psd", *SMALL, "--set", "training.epochs=1"), "ms+psd would seem to be free; --set training"),
        (
            ("--methods", "ms+psd", *SMALL, "--set", "distillation.lambda=0"),
            "lambda=0 it is its base",
        ),
    ],
)
def test_one_clear_line(arguments: tuple[str, ...], message: str, dmlbench: Command, tmp_path: Path) -> None:
    done = dmlbench("overhead", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_damaged_measurement_is_told_of_before_measuring(dmlbench: Command, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "runs" / "overhead"
    folder.mkdir(parents=True)
    (folder / "old.json").write_text("{")
    for command in (("overhead", "--methods", "ms", *SMALL), ("report",)):
        done = dmlbench(*command)
        assert done.returncode == 2
        assert "old.json: not a readable measurement" in done.stderr
        assert "round" not in done.stdout
