"""`dmlbench reproduce`: cells are trained anew and compared with what is recorded."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmlbench.results.status import problems
from dmlbench.results.store import Store
from tests.e2e.conftest import TINY, Command, metric_columns
from tests.kept import finish_again

RUN = ("run", "--methods", "ms", "--datasets", "glyphs", "--tracking", "none", *TINY)
REPRODUCE = ("reproduce", "--results", "recorded")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_cells_are_equal_to_the_last_bit_until_one_is_changed(dmlbench: Command, tmp_path: Path) -> None:
    recorded, again = tmp_path / "recorded", tmp_path / "results" / "reproduced"
    assert dmlbench(*RUN, "--seeds", "3", "--results", "recorded").returncode == 0
    before = contents(recorded)
    done = dmlbench(*REPRODUCE, "--draw-seed", "5", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 finished cells are trained again (--draw-seed 5)" in done.stdout
    figures = r"equal to the last bit; R@1 (\d+\.\d\d) recorded, \1 here \(\+0\.00\)$"
    assert len(re.findall(rf"^ms on glyphs, seed [012]: {figures}", done.stdout, re.MULTILINE)) == 3
    assert done.stdout.splitlines()[-1] == "3 of 3 cells agree: 3 to the last bit"
    assert contents(recorded) == before
    assert metric_columns(again) == metric_columns(recorded)
    assert problems(Store(again)) == {}

    resumed = dmlbench(*REPRODUCE, "--cells", "1")  # trained before, by this code on this machine
    assert "1 cell: 1 there already, 0 to run" in resumed.stdout
    assert re.search(r"trained again \(--draw-seed \d+\)", resumed.stdout)

    changed = next(recorded.glob("*/*/*/seed1-*"))
    edit_history(changed)
    left_out = dmlbench(*REPRODUCE)
    assert left_out.returncode == 1
    assert re.search(r"^left out: .*seed1-.*history.csv: is not as it was written", left_out.stdout, re.MULTILINE)
    assert left_out.stdout.splitlines()[-1] == "2 of 2 cells agree: 2 to the last bit"
    finish_again(changed)  # by somebody who has the digests, too
    differs = dmlbench(*REPRODUCE)
    assert differs.returncode == 1
    line = r"seed 1: differs; .*; first in epoch 1: test/recall_at_1 0.125 recorded, [\d.]+ here; this"
    assert re.search(line, differs.stdout)
    assert differs.stdout.splitlines()[-1] == "2 of 3 cells agree: 2 to the last bit, 1 differs"

    summary = json.loads((changed / "summary.json").read_text())
    finish_again(changed, environment=summary["environment"] | {"torch": "1.0"})
    elsewhere = dmlbench(*REPRODUCE)
    assert elsewhere.returncode == 0
    most = r"\(\+0\.00 of at most \d+\.\d\d\)"
    line = rf"seed 1: within the spread over seeds; R@1 .* {most}; MAP@R .* {most}; 3 seeds; torch 1\.0 recorded, "
    assert re.search(line, elsewhere.stdout)
    assert elsewhere.stdout.endswith("3 of 3 cells agree: 2 to the last bit, 1 within the spread over seeds\n")

    shutil.rmtree(next(recorded.glob("*/*/*/seed2-*")))
    few = dmlbench(*REPRODUCE)
    assert few.returncode == 1
    assert re.search(r"seed 1: no verdict; .*; 2 of 3 seeds that a spread needs; torch 1\.0 recorded", few.stdout)
    assert few.stdout.endswith("1 of 2 cells agrees: 1 to the last bit, 1 has no verdict\n")


def edit_history(folder: Path) -> None:
    """Give R@1 of the first epoch another value."""
    path = folder / "history.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[2][rows[0].index("test/recall_at_1")] = "0.125"
    path.write_text("".join(f"{','.join(row)}\n" for row in rows))


def test_what_makes_no_sense_is_one_line(dmlbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = tmp_path / "recorded"
    assert dmlbench(*RUN, "--seeds", "2", "--results", "recorded").returncode == 0
    before = contents(recorded)
    shutil.copytree(recorded, tmp_path / "copied")
    for arguments, said in {
        ("--output", "recorded"): "--output recorded: new results would be among those of --results recorded",
        ("--output", "copied"): "is a copy of the recorded result; name another folder with --output",
        ("--cells", "3"): "--cells 3: 2 cells finished; give fewer",
        ("--cells", "some"): "'some' is not a valid integer",
        ("--only", "dataset=cub"): "--only: unknown dataset 'cub'; valid: glyphs",
        ("--datasets", "birds=birds"): "--datasets: unknown dataset of the recorded cells 'birds'",
        ("--set", "training.epochs=3"): "--set training.epochs=3: the spec of a recorded cell says all else",
    }.items():
        done = dmlbench(*REPRODUCE, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert said in done.stderr
    assert contents(recorded) == before
    assert not (tmp_path / "results").exists()
    next(recorded.glob("*/*/*/seed1-*/spec.yaml")).write_text("hash: 1")
    left_out = dmlbench(*REPRODUCE)  # the other is confirmed all the same
    assert left_out.returncode == 1
    assert re.search(r"^left out: .*spec.yaml: is not as it was written", left_out.stdout, re.MULTILINE)
    assert left_out.stdout.endswith("1 of 1 cell agrees: 1 to the last bit\n")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dmlbench.api.study.execute", interrupted)
    stopped = dmlbench(*REPRODUCE, "--draw-seed", "9", "--output", "stopped")
    said = "interrupted; finished epochs are kept: the same command with --draw-seed 9 resumes"
    assert (stopped.returncode, stopped.stderr.strip()) == (130, said)


METHOD = """\
name: pull
title: Pull towards the class mean
kind: loss
class: Pull
plugin: pull.py
paper: {title: none, authors: test, venue: none}
parameters: {}
"""
PLUGIN = """\
from pathlib import Path

import torch


class Pull(torch.nn.Module):
    def forward(self, embeddings, labels):
        if Path("broken").exists():
            raise RuntimeError("broken")
        same = (labels[:, None] == labels).float()
        return (embeddings - same @ embeddings / same.sum(1, keepdim=True)).square().sum(1).mean()
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A method and images of somebody's own, in a folder."""
    rng = np.random.default_rng(0)
    for name in ("crow", "duck", "jay", "wren"):
        (tmp_path / "own" / "birds" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (20, 20), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / "birds" / name / f"{number}.png")
    (tmp_path / "own" / "pull.yaml").write_text(METHOD)
    (tmp_path / "own" / "pull.py").write_text(PLUGIN)
    return tmp_path / "own"


def test_images_and_plugins_are_where_the_user_says(dmlbench: Command, own: Path, tmp_path: Path) -> None:
    run = ("run", "--methods", "pull", "--datasets", "birds=own/birds", "--protocol", "conv4-64", "--tracking", "none")
    small = ("--set", "training.batch_size=4", "--methods-dir", "own", "--results", "recorded", "--seeds", "1")
    assert dmlbench(*run, *TINY, *small).returncode == 0
    own.rename(tmp_path / "moved")

    def refused(*arguments: str) -> str:
        done = dmlbench(*REPRODUCE, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert not (tmp_path / "results").exists()
        return done.stderr

    missing = "pull on birds, seed 0: the images of own/birds are not here; --datasets birds=FOLDER says where they are"
    assert refused() == f"error: {missing}\n"
    assert "--datasets birds=nowhere: no such folder" in refused("--datasets", "birds=nowhere")
    here = ("--datasets", "birds=moved/birds")
    assert "pull is a Python plugin, pull.py; --methods-dir names its folder" in refused(*here)

    done = dmlbench(*REPRODUCE, *here, "--methods-dir", "moved")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 cell agrees: 1 to the last bit"), done.stderr
    (tmp_path / "broken").touch()
    failed = dmlbench(*REPRODUCE, *here, "--methods-dir", "moved", "--output", "broken again")
    assert (failed.returncode, failed.stdout.splitlines()[-1]) == (1, "0 of 1 cell agree: 1 failed")
    assert "pull on birds, seed 0: failed; " in failed.stdout
