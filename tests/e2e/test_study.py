"""Studies through the real command line: a study file, declared claims, any two methods, two machines in one report."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dmlbench.results.frames import load_results
from tests.e2e.conftest import TINY, Command
from tests.e2e.test_commands import METHOD, PLUGIN
from tests.e2e.test_foreign_machines import images

STUDY = {
    "methods": ["ms", "ms+psd"],
    "datasets": ["toy=here/toy"],
    "seeds": [0, 1],
    "protocol": "conv4-64",
    "settings": {"training.batch_size": 8, "training.epochs": 2},
    "claims": [{"modifier": "psd", "bases": ["ms", "triplet"]}],
}
SETTINGS = ("--protocol", "conv4-64", "--set", "training.batch_size=8", "--set", "training.epochs=2")
CLASSES = ("a", "b", "c", "d")


@pytest.mark.slow
def test_a_study_of_two_machines_is_one_report(dmlbench: Command, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    images(ours / "here" / "toy", CLASSES)
    shutil.copytree(ours / "here", theirs / "elsewhere")
    (ours / "study.yaml").write_text(yaml.dump(STUDY))
    done = dmlbench("run", "study.yaml", "--tracking", "none", cwd=ours)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 cells: 0 there already, 8 to run" in done.stdout  # triplet and triplet+psd come with the claim
    assert "claim: psd improves ms, triplet; declared " in done.stdout
    assert "all bases (main effect)" in done.stdout
    arguments = ("--methods", "ms,ms+psd", "--datasets", "toy=elsewhere/toy", *SETTINGS, "--seed", "2", "--seed", "3")
    done = dmlbench("run", *arguments, "--claim", "psd:ms,triplet", "--tracking", "none", cwd=theirs)
    assert done.returncode == 0, done.stdout + done.stderr

    both = ("--results", "ours/results/runs", "--results", "theirs/results/runs")
    page = dmlbench("report", *both, "--against", "triplet", "--name", "both")
    assert page.returncode == 0, page.stderr
    tables = tmp_path / "reports" / "both" / "tables"
    board = pd.read_csv(tables / "leaderboard.csv").query("metric == 'recall_at_1' and selection == 'last'")
    assert dict(zip(board["method"], board["n"], strict=True)) == dict.fromkeys(
        ("ms", "ms+psd", "triplet", "triplet+psd"), 4
    )
    compared = pd.read_csv(tables / "comparisons.csv").query("metric == 'recall_at_1' and selection == 'last'")
    assert {("ms", "triplet"), ("ms+psd", "triplet"), ("triplet+psd", "triplet")} <= set(
        zip(compared["method"], compared["to"], strict=True)
    )
    text = (tables.parent / "report.md").read_text()
    assert text.count("psd improves ms, triplet") == 1
    assert re.search(r"After the fact: declared \d.* UTC, when 8 of its 16 cells had begun", text)  # ours, seen by then
    alone = dmlbench("report", *both[:2], "--name", "alone", "--only", "method=ms")
    assert alone.returncode == 0, alone.stderr
    text = (tmp_path / "reports" / "alone" / "report.md").read_text()
    assert "before its first cell" in text
    assert "| all bases (main effect) | 2 |" in text  # a claim is of all its cells, whatever a report shows
    assert str(tmp_path) not in text + (tables / "cells.csv").read_text()
    assert {path.split("/")[0] for path in pd.read_csv(tables / "cells.csv")["folder"]} == {"runs", "runs-2"}

    shown = dmlbench("status", *both)
    assert shown.returncode == 0
    assert "16 done" in shown.stdout
    assert "(16 cells)" in shown.stdout
    states = json.loads(dmlbench("status", *both, "--json").stdout)
    assert sorted(cell["seed"] for cell in states if cell["method"] == "ms") == [0, 1, 2, 3]
    table = load_results([ours / "results" / "runs", theirs / "results" / "runs"])
    assert table.groupby(["protocol", "overrides", "dataset"], sort=False).ngroups == 1

    assert dmlbench("submit", "--check", *both[2:]).returncode == 0
    packed = dmlbench("submit", "--output", "their-lab.tar.gz", *both[2:])
    assert packed.returncode == 0, packed.stderr
    (tmp_path / "results").mkdir()
    subprocess.run(["tar", "-xzf", "their-lab.tar.gz", "-C", "results"], cwd=tmp_path, check=True)
    merged = dmlbench("status", *both[:2], "--results", "results/their-lab")
    assert (merged.returncode, "16 done" in merged.stdout) == (0, True)
    assert dmlbench("submit").stderr.startswith("error: --output: is required; for example --output my-lab.tar.gz")

    twice = dmlbench("report", *both, *both[:2])
    assert (twice.returncode, twice.stderr) == (2, "error: --results ours/results/runs: is given twice\n")


GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "run.md").read_text(encoding="utf-8")


def test_the_study_of_the_manual(dmlbench: Command, tmp_path: Path) -> None:
    text = GUIDE.split("`study.yaml`:\n\n```yaml\n")[1].split("```")[0]
    (tmp_path / "study.yaml").write_text(text)
    done = dmlbench("run", "study.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "claim: psd improves ms, triplet: would be declared before its first cell" in done.stdout
    assert "claim: dm2 improves triplet: would be declared before its first cell" in done.stdout
    assert "30 cells to run" in done.stdout or "30 of 30 cells to run" in done.stdout, done.stdout
    assert "power: with 6 seeds a true difference of " in done.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--claim", "pds:ms"), "claim pds:ms: unknown modifier 'pds'"),
        (("--claim", "psd:ms,tripet"), "claim psd:ms,tripet: unknown base 'tripet'"),
        (("--claim", "psd"), "--claim 'psd': must be MODIFIER:BASES"),
        (("--against", "tripet"), "--against: unknown method of this run 'tripet'"),
        (("--against", "triplet"), "--against: unknown method of this run 'triplet'"),
    ],
)
def test_what_could_never_be_answered_is_refused_before_anything_runs(
    dmlbench: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    refused = dmlbench("run", "--methods", "ms,ms+psd", "--datasets", "glyphs", *TINY, *arguments)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seeds: [0, 0, 1]", "seeds: must be some seeds, each given once"),
        ("seeds: []", "seeds: must be some seeds, each given once"),
        ("claims: [{modifier: psd, bases: [ms], datasets: [cub]}]", "datasets: unknown dataset 'cub'; valid: glyphs"),
        ("claims: [{modifier: psd, bases: [ms], metric: recal_at_1}]", "must be one of recall_at_1, map_at_r, r_prec"),
        ("claim: [psd:ms]", "unknown key 'claim'"),
    ],
)
def test_a_study_that_is_none(dmlbench: Command, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "study.yaml").write_text(f"methods: ms,ms+psd\ndatasets: glyphs\n{content}\n")
    refused = dmlbench("run", "study.yaml", *TINY, "--tracking", "none")
    assert refused.returncode == 2
    assert said in refused.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_loss_of_ones_own_is_compared_with_a_shipped_one(dmlbench: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pull.yaml").write_text(METHOD)
    (tmp_path / "mine" / "pull.py").write_text(PLUGIN)
    own = ("--methods-dir", "mine", "--datasets", "glyphs", "--seeds", "3", *TINY, "--tracking", "none")
    done = dmlbench("run", "--methods", "ms,pull", *own)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if re.match(r"pull \(b\) +\d", line))
    assert " ms " in row
    assert "worse" in row  # pulled together by one loss, never pushed apart
    page = dmlbench("report", "--name", "mine")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "reports" / "mine" / "report.md").read_text()
    assert text.index("R@1 of pull is worse than that of ms") < text.index("eaderboard")
    other = dmlbench("run", "--methods", "ms,pull", *own, "--against", "triplet")
    assert other.returncode == 2
