"""The commands that look: help, list, show, validate, doctor, dry run."""

import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.table import Table

from dmlbench.cli.list import command
from dmlbench.cli.main import COMMANDS
from dmlbench.runner.progress import SafeConsole
from tests.e2e.conftest import TINY, Command

METHOD = """\
name: pull
title: Pull towards the class mean
kind: loss
class: Pull
plugin: pull.py
paper: {title: none, authors: test, venue: none}
parameters:
  strength: {value: 2.0, source: chosen for a test}
"""
PLUGIN = """\
import torch


class Pull(torch.nn.Module):
    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def forward(self, embeddings, labels, generator=None):
        same = (labels[:, None] == labels).float()
        means = same @ embeddings / same.sum(1, keepdim=True)
        return self.strength * (embeddings - means).square().sum(1).mean()
"""


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_ends_with_two_examples(name: str | None, dmlbench: Command) -> None:
    done = dmlbench(*([name] if name else []), "--help")
    assert done.returncode == 0
    examples = done.stdout.split("Examples:")[1].split("Options:")[0]
    assert len(re.findall(r"^\s+(?:\w+=\S+ )?dmlbench ", examples, flags=re.MULTILINE)) == 2


def test_without_a_command_the_overview_is_shown(dmlbench: Command) -> None:
    assert dmlbench().stdout == dmlbench("--help").stdout
    assert dmlbench().stderr == ""


def test_list(dmlbench: Command) -> None:
    methods = dmlbench("list", "methods").stdout
    assert max(map(len, methods.splitlines())) <= 140
    assert re.search(r"^contrastive +F( +\.)+ *$", methods, flags=re.MULTILINE)
    assert re.search(r"^margin +F .*\bFP\b", methods, flags=re.MULTILINE)  # S2SD, of which there is a file, too
    assert re.search(r"^obdsd-mem +\S.* no paper", methods, flags=re.MULTILINE)
    listed = json.loads(dmlbench("list", "methods", "--json").stdout)
    assert f"{len(listed)} methods: " in methods
    own = {row["name"]: row for row in listed}
    assert own["ms+obdsd"] == {
        "name": "ms+obdsd", "base": "ms", "modifier": "obdsd", "own_file": False, "published_figures": False,
        "title": "Multi-Similarity loss + Self-distillation with online batch diffusion",
    }  # fmt: skip
    assert (own["margin+s2sd"]["own_file"], own["margin+s2sd"]["published_figures"]) == (True, True)
    assert "ms+xbm" in own
    assert "proxyanchor+xbm" not in own
    assert "2,720" in dmlbench("list", "datasets").stdout
    protocols = dmlbench("list", "protocols").stdout
    assert re.search(r"conv4-64 .* 20, glyphs 12 *$", protocols, flags=re.MULTILINE)
    folder = protocols.splitlines()[-1].removeprefix("their files: ")
    assert (Path(folder) / "hyp-vit-s16.yaml").is_file()
    listed = {row["name"]: row for row in json.loads(dmlbench("list", "protocols", "--json").stdout)}
    assert Path(listed["conv4-64"]["file"]) == Path(folder) / "conv4-64.yaml"
    assert json.loads(dmlbench("list", "datasets", "--json").stdout)[0]["name"] == "glyphs"
    assert json.loads(dmlbench("list", "protocols", "--json").stdout)[0]["epochs"] == "20, glyphs 12"


def test_a_grid_is_no_wider_than_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut between columns, and every part names its bases; what a base cannot take is blank."""
    monkeypatch.setattr("dmlbench.runner.progress.plain_or_wide", lambda: SafeConsole(width=60, markup=False))
    lines = CliRunner().invoke(command, ["methods"]).output.splitlines()
    rows = [line for line in lines if re.match(r"proxyanchor +[.F]", line)]
    assert len(rows) > 1
    assert max(map(len, lines)) <= 60
    number = next(number for number, line in enumerate(lines) if "xbm" in line)
    marks = {
        name: next(line for line in lines[number:] if line.startswith(f"{name} ")) for name in ("ms", "proxyanchor")
    }
    assert {name: row[lines[number].index("xbm")] for name, row in marks.items()} == {"ms": ".", "proxyanchor": " "}


@pytest.mark.parametrize("width", [20, 40, 80])
def test_no_number_is_cut_on_a_narrow_terminal(width: int) -> None:
    output = io.StringIO()
    table = Table("method", "R@1", "difference", "verdict", box=None)
    table.columns[0].no_wrap = True
    table.add_row("ms+psd (b,a)", "44.44 [20.54,68.35]", "+0.00 [-10.25,+10.25]", "inconclusive")
    console = SafeConsole(file=output, width=width, markup=False)
    console.print(table)
    console.print("a line as wide as the terminal")
    shown = output.getvalue()
    assert "…" not in shown
    for word in ("ms+psd (b,a)", "44.44", "[20.54,68.35]", "+0.00", "[-10.25,+10.25]", "inconclusive"):
        assert word in shown
    assert len(shown.splitlines()[-1]) <= width  # as ever, but for tables


def test_show_resolves_per_dataset_with_sources(dmlbench: Command) -> None:
    shown = dmlbench("show", "ms+obdsd", "--dataset", "cub").stdout
    assert re.search(r"lambda +1000\.0 +0\.1 to 1000, logarithmic +official code, CUB setting", shown)
    assert re.search(r"omega +0\.3 ", shown)
    shown = dmlbench("show", "triplet+obdsd", "--dataset", "cub").stdout
    assert "untuned: nothing published" in shown
    assert re.search(r"lambda +75\.0 +0\.1 to 1000, logarithmic +parser default", shown)


def test_show_says_what_was_published_and_how_ours_differs(dmlbench: Command) -> None:
    shown = dmlbench("show", "ms+obdsd", "--dataset", "cars").stdout
    assert re.search(r"resnet50-512, cars +distillation\.lambda +200\.0 +75\.0 +official code, Cars setting at", shown)
    assert re.search(r"resnet50-512 +model\.pooling +average\+max +average", shown)
    assert re.search(r"resnet50-512 +training\.epochs +300 +150", shown)
    shown = dmlbench("show", "triplet", "--dataset", "cub").stdout
    assert re.search(r"recall_at_1 +62\.87 ± 0\.35 +5 +best-test +resnet50-128 +yes +Roth", shown)
    assert re.search(r"60\.09 ± 0\.49 +5 +best-test +resnet50-128 +no: with mining semihard", shown)
    assert re.search(r"63\.60 +unknown +unknown +idml-resnet50-512 +no: another protocol", shown)
    shown = dmlbench("show", "triplet", "--dataset", "cub", "--set", "loss.margin=0.3").stdout
    assert re.search(r"62\.87 .* no: changed by --set", shown)
    assert re.search(r"resnet50-128, cub +loss\.margin +0\.2 +0\.3", shown)
    shown = dmlbench("show", "margin+psd").stdout
    assert "psd is published with contrastive, triplet, ms, proxyanchor, not with margin" in shown
    assert "resnet50-128 is of another network: torchvision:resnet50 at 224 px, here conv4 at 28 px" in shown
    shown = dmlbench("show", "cosinecontrastive+xbm", "--dataset", "cub").stdout
    assert re.search(r"xbm-resnet50-128 +training\.batch_size +64 +112", shown)
    assert "protocol sfora-resnet50-512 is not among `dmlbench list protocols`" in dmlbench("show", "ms+ema").stdout


@pytest.mark.slow
def test_validate_and_run_a_method_in_one_file_and_a_plugin(dmlbench: Command, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "pull.yaml").write_text(METHOD)
    (mine / "pull.py").write_text(PLUGIN)
    checked = dmlbench("validate", "mine/pull.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "a step of pull gives loss" in checked.stdout
    run = ("run", "--methods", "pull,pull+psd", "--datasets", "glyphs", *TINY, "--seeds", "1", "--tracking", "none")
    done = dmlbench(*run, "--methods-dir", "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pull+psd" in done.stdout
    (tmp_path / "methods").symlink_to(mine)  # found, but not trusted with Python
    refused = dmlbench(*run, "--set", "loss.strength=3")
    assert refused.returncode == 2
    assert "add --methods-dir methods" in refused.stderr


@pytest.mark.slow
def test_validate_every_shipped_method(dmlbench: Command) -> None:
    files = sorted((Path(__file__).parents[2] / "methods").glob("*.yaml"))
    assert len(files) > 20
    done = dmlbench("validate", *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": valid; a step of ") == len(files)
    assert done.stderr == ""


def test_dry_run_plans_and_writes_nothing(dmlbench: Command, tmp_path: Path) -> None:
    done = dmlbench("run", "--methods", "ms,ms+obdsd", "--datasets", "glyphs,omniglot-small", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "24 of 24 cells to run" in done.stdout
    assert "unknown (no past records" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_doctor(dmlbench: Command) -> None:
    done = dmlbench("doctor")
    assert done.returncode == 0, done.stdout
    for what in ("Python", "torch", "GPU", "faiss", "results folder", "dataset glyphs", "dataset omniglot-small"):
        assert what in done.stdout
    assert "`dmlbench selftest` checks" in done.stdout


def test_doctor_looks_for_weights_and_downloads_none(
    dmlbench: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    missing = dmlbench("doctor")
    assert "IMAGENET1K_V1 of torchvision:resnet50 are not" in " ".join(missing.stdout.split())
    assert missing.returncode == 0
    (tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth").touch()
    assert "IMAGENET1K_V1 of torchvision:resnet50 is here: for " in " ".join(dmlbench("doctor").stdout.split())


def test_a_plugin_that_fails_is_run_anew_once_its_file_is_mended(dmlbench: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pull.yaml").write_text(METHOD)
    (tmp_path / "mine" / "pull.py").write_text(PLUGIN.replace(".mean()", ".mean() / 0"))
    run = ("run", "--methods", "pull", "--methods-dir", "mine", "--datasets", "glyphs", *TINY, "--seeds", "1")
    failed = dmlbench(*run, "--tracking", "none")
    assert failed.returncode == 1
    assert "after a change of your Python file rerun the plain command" in failed.stdout
    (tmp_path / "mine" / "pull.py").write_text(PLUGIN)
    mended = dmlbench(*run, "--tracking", "none")
    assert mended.returncode == 0, mended.stdout
    assert mended.stdout.rstrip().endswith("`dmlbench report` renders this folder's results as a page")
    assert dmlbench("show", "pull", "--methods-dir", "mine").stdout.count("variant:") == 0
