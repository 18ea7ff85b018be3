"""`dmlbench.run`, `Study`, `compare` and `report`, as a script or a notebook calls them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dmlbench
from dmlbench.results.evaluated import Evaluated, new_file, now, write_evaluated

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
TINY = {"training.epochs": 2, "input.size": 16, "input.resize": 16, "model.embedding_dim": 16}
# No main guard: the processes that train must not run this file again.
SCRIPT = """
import dmlbench
print("begins")
study = dmlbench.run(
    ["ms", "ms+psd"], "glyphs", seeds=[3], settings={settings}, keep="weights", results="here", tracking="none",
    quiet={quiet},
)
print(study.frame[["method", "selection", "seed", "status", "recall_at_1"]].to_json(orient="records"))
print(study.report("reports/mine"))
assert dmlbench.report("here", "reports/whole").name == "whole"
"""


@pytest.fixture(scope="module")
def reference() -> dmlbench.Study:
    return dmlbench.Study(REFERENCE)


def test_the_public_names_are_there():
    assert all(getattr(dmlbench, name) is not None for name in dir(dmlbench))
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        _ = dmlbench.runs


def test_a_comparison_is_that_of_the_report(reference):
    compared = reference.compare()
    row = compared[(compared["dataset"] == "glyphs") & (compared["name"] == "ms+obdsd")].iloc[0]
    assert (row["to"], row["n"], row["verdict"]) == ("ms", 6, "worse")
    points = [f"{100 * row[name]:.2f}" for name in ("mean", "low", "high")]
    report = (ROOT / "reports" / "glyphs" / "report.md").read_text(encoding="utf-8").replace("−", "-")
    assert f"{points[0]} [{points[1]}, {points[2]}]" in report
    assert set(compared["verdict"]) <= {"better", "worse", "inconclusive", ""}


def test_a_report_of_some_cells_has_what_was_not_trained_here(tmp_path):
    """Of their protocol and dataset, whatever it is called; of other methods it has none."""
    for method in ("ms", "ms+obdsd"):
        shutil.copytree(REFERENCE / "conv4-64" / "glyphs" / method, tmp_path / "r" / "conv4-64" / "glyphs" / method)
    every = dmlbench.load_results(tmp_path / "r")
    cells = every[every["method"] == "ms"]
    for name, dataset in (("mine", "glyphs"), ("elsewhere", "omniglot-small")):
        row = Evaluated(
            name=name, what="embeddings", about="mine", protocol="conv4-64", dataset=dataset, test_images=2000,
            dataset_version=cells["dataset_version"].iloc[0], test_classes=100, metrics={"recall_at_1": 0.5},
            made=now(),
        )  # fmt: skip
        write_evaluated(new_file(tmp_path / "r", "conv4-64", dataset, name), row)
    folder = dmlbench.Study(tmp_path / "r", frozenset(cells["hash"])).report(tmp_path / "report")
    text = (folder / "report.md").read_text()
    assert "| mine | – | 50.00" in text
    assert "| ms | 6 |" in text
    assert "| ms+obdsd" not in text
    assert "elsewhere" not in text


def test_a_metric_or_selection_that_is_not_there(reference):
    with pytest.raises(dmlbench.UserError, match="unknown metric 'recall_at_3'"):
        reference.compare("recall_at_3")
    with pytest.raises(dmlbench.UserError, match="unknown selection 'best'"):
        reference.compare(selection="best")


def test_results_that_are_not_there(tmp_path):
    for read in (dmlbench.Study, dmlbench.compare):
        with pytest.raises(
            dmlbench.UserError, match=r"no such results folder; run `dmlbench run` first, .* with results$"
        ):
            read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": "mss"}, "unknown method 'mss'"),
        ({"datasets": ["glyfs"]}, "unknown dataset 'glyfs'"),
        ({"settings": {"training.epoch": 3}}, "^settings: training: unknown key 'epoch'"),
        ({"settings": {"training.epochs": "3"}}, "^settings: training.epochs: must be a whole number"),
        ({"keep": ["weight"]}, "^keep: unknown thing to keep 'weight'"),
        ({"address": "auto"}, "^address auto: names a Ray cluster; add executor ray"),
        ({"protocol": "mine.yaml"}, "^protocol mine.yaml: no such file; see `dmlbench list protocols`"),
        ({"methods_dir": "nowhere"}, "^methods_dir nowhere: no such folder"),
        ({"tuned": True, "settings": {"loss.alpha": 3}}, "^tuned and settings of a method's values exclude each other"),
        ({"datasets": "A B=."}, "^datasets 'A B=.': must be NAME=FOLDER"),
        ({"datasets": "omniglot-small", "data_dir": "."}, "or leave data_dir and DMLBENCH_DATA out"),
        ({"system_metrics": True}, "^system_metrics: with tracking none there is nowhere to send them"),
        ({"seeds": 0}, "seeds: must be a whole number from 1"),
        ({"seeds": [1, 1]}, "each given once"),
        ({"seeds": [-1]}, "seeds: must be a whole number from 0"),
        ({"seeds": []}, "seeds: must be some numbers"),
        ({"methods": ["ms", "ms"]}, "^methods: 'ms' is given twice"),
        ({"methods": []}, "methods: name at least one"),
        ({"methods": 3}, "^methods: must be names"),
        ({"seeds": "3"}, "seeds: must be a whole number, or a list"),
        ({"seeds": None}, "seeds: must be a whole number, or a list"),
        ({"settings": ["training.epochs=2"]}, "settings: must be a mapping"),
        ({"settings": {"training.epochs": object()}}, "settings: Object of type object"),
        ({"tracking": False}, "tracking: must be one of auto, none, not False"),
        ({"tracking": "no"}, "unknown tracking 'no'"),
        ({"executor": "pbs"}, "unknown executor 'pbs'"),
        ({"executor": "slurm"}, "^slurm: a time limit is needed"),
        ({"executor": "slurm", "slurm": {"time": 5, "gpus": 1}}, "^slurm: unknown key 'gpus'"),
        ({"slurm": {"time": 5}}, "^slurm: is about SLURM jobs; add executor slurm"),
        ({"wait": True}, "^wait: is about SLURM jobs; add executor slurm"),
        ({"workers": 0}, "workers: must be a whole number from 1"),
        ({"device": "gpu"}, "^device: unknown device 'gpu'"),
        ({"data_dir": "nowhere"}, "^data_dir nowhere: no such folder"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(wrong, message, empty_folder):
    given = {"methods": "ms", "datasets": "glyphs", "seeds": 1, "tracking": "none", "results": "here"} | wrong
    with pytest.raises(dmlbench.UserError, match=message):
        dmlbench.run(**given)
    assert list(empty_folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("fed", [False, True], ids=["a script", "as in a notebook, without a file"])
def test_a_script_without_a_main_guard(fed, tmp_path):
    script = tmp_path / "study.py"
    script.write_text(SCRIPT.format(settings=TINY, quiet=fed))
    command = [sys.executable, "-"] if fed else [sys.executable, str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "module://nowhere.inline"}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        input=script.read_text() if fed else "",
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("begins") == 1
    rows = {(row["method"], row["selection"]): row for row in json.loads(lines[-2])}
    assert rows["ms", "last"]["seed"] == 3
    assert rows["ms", "last"]["recall_at_1"] > rows["ms", "untrained"]["recall_at_1"]
    assert rows["ms+psd", "last"]["status"] == "done"
    assert lines[-1] == str(Path("reports/mine"))
    assert (tmp_path / "reports" / "mine" / "index.html").is_file()
    if fed:  # quiet, too
        assert len(lines) == 3
    else:
        assert "2 cells: 0 there already, 2 to run; results in here" in lines
    assert "Traceback" not in "".join(log.read_text() for log in (tmp_path / "here").rglob("log.txt"))
