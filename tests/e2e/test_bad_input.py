"""Bad input: one clear line, exit code 2, nothing half-written."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.e2e.conftest import Command

RUN = ("run", "--tracking", "none")
TRACKED = ("run", "--seeds", "1")
OMNIGLOT = Path(__file__).parents[3] / "shared" / "data" / "omniglot"
CASES = {
    "unknown method": (
        (*RUN, "--methods", "mss", "--datasets", "glyphs"),
        ("unknown method 'mss'", "did you mean 'ms'?"),
    ),
    "modifier alone": (
        (*RUN, "--methods", "obdsd", "--datasets", "glyphs"),
        ("is a modifier and needs a base", "ms+obdsd"),
    ),
    "base as modifier": ((*RUN, "--methods", "ms+triplet", "--datasets", "glyphs"), ("cannot follow a +",)),
    "unknown dataset": ((*RUN, "--methods", "ms", "--datasets", "glyps"), ("unknown dataset 'glyps'", "'glyphs'?")),
    "unknown protocol": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--protocol", "conv4"),
        ("unknown protocol 'conv4'", "'conv4-64'?"),
    ),
    "missing data folder": (
        (*RUN, "--methods", "ms", "--datasets", "omniglot-small", "--data-dir", "nowhere"),
        ("--data-dir nowhere: no such folder",),
    ),
    "folder without the archives": (
        (*RUN, "--methods", "ms", "--datasets", "omniglot-small", "--data-dir", "."),
        ("images_background_small1.zip not found",),
    ),
    "unknown field": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "training.epoch=3"),
        ("--set: training: unknown key 'epoch'", "'epochs'?"),
    ),
    "wrong value": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "training.epochs=many"),
        ("--set: training.epochs", "'many'"),
    ),
    "a word for a number": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "loss.alpha=yes"),
        ("--set 'loss.alpha=yes'", "'yes' is no number"),
    ),
    "a truth for a number": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "loss.alpha=true"),
        ("alpha: must be a number, not True",),
    ),
    "all classes for validation": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "validation.classes=0.99", "--dry-run"),
        ("validation.classes: holding out 99 of 100 training classes leaves fewer than 2", "a smaller fraction"),
    ),
    "setting of no method": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "distillation.lambda=1"),
        ("no chosen method has this parameter",),
    ),
    "tuned without tuning": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--tuned"),
        ("results/runs/tuning/tuned.yaml: no such file", "dmlbench tune"),
    ),
    "tune a value that is set": (
        ("tune", "--methods", "ms", "--datasets", "glyphs", "--epochs", "192", "--set", "loss.alpha=3"),
        ("--set loss.alpha=3: tuning chooses the values of methods",),
    ),
    "trials": (("tune", "--methods", "ms", "--datasets", "glyphs", "--trials", "8"), ("--trials: is no", "--epochs N")),
    "too few epochs": (
        ("tune", "--methods", "ms", "--datasets", "glyphs", "--epochs", "95"),
        ("--epochs 95: too few", "give 96 or more"),
    ),
    "both seeds and seed": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--seeds", "2", "--seed", "1"),
        ("exclude each other",),
    ),
    "seeds as a list": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--seeds", "0,1"),
        ("--seeds 0,1: --seeds is how many, from 0; --seed 0 --seed 1",),
    ),
    "a list as seed": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--seed", "0", "5"),
        ("--seed 0 5: no blanks in a value; --seed 0 --seed 5",),
    ),
    "seeds of tune as a list": (
        ("tune", "--methods", "ms", "--datasets", "glyphs", "--seeds", "0,1"),
        ("--seeds", "no option of tune any more"),
    ),
    "no number of seeds": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--seeds", "some"),
        ("'--seeds': 'some' is not a valid integer;",),
    ),
    "methods with blanks": (
        (*RUN, "--methods", "ms", "triplet", "psd", "--datasets", "glyphs"),
        ("--methods ms triplet psd: no blanks in a value; --methods ms,triplet,psd",),
    ),
    "methods with blanks in quotes": (
        (*RUN, "--methods", "ms triplet", "--datasets", "glyphs"),
        ("--methods 'ms triplet': commas go between names; --methods ms,triplet",),
    ),
    "datasets with blanks": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs,", "cub"),
        ("no blanks in a value; --datasets glyphs,cub",),
    ),
    "only with blanks": (("report", "--only", "method=ms", "psd"), ("--only method=ms,psd",)),
    "set with a blank": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "training.epochs", "2"),
        ("no blanks in a value; --set training.epochs=2",),
    ),
    "a word too many": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--tuned", "x", "y"),
        ("y: no such study file",),
    ),
    "a folder without a name": (
        (*RUN, "--methods", "ms", "--datasets", "./images"),
        ("--datasets ./images: a folder of images needs a name; --datasets images=./images, with a folder for each",),
    ),
    "a folder that is not there": (
        (*RUN, "--methods", "ms", "--datasets", "./my images"),
        ("--datasets ./my images: no such folder or dataset; --datasets 'NAME=./my images', with",),
    ),
    "a key without its section": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "epoch=2"),
        ("--set 'epoch=2': not the full key; --set training.epochs=2",),
    ),
    "a key of two sections": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "batch_size=2"),
        ("--set training.batch_size=2 or --set evaluation.batch_size=2",),
    ),
    "a method's key without its section": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", "omega=2"),
        ("--set loss.omega=2 or --set modifier.omega=2",),
    ),
    "unknown thing to keep": ((*RUN, "--methods", "ms", "--datasets", "glyphs", "--keep", "weight"), ("'weights'?",)),
    "no cuda": ((*RUN, "--methods", "ms", "--datasets", "glyphs", "--device", "tpu"), ("unknown device 'tpu'",)),
    "method given twice": ((*RUN, "--methods", "ms,ms", "--datasets", "glyphs"), ("given twice",)),
    "no methods": ((*RUN, "--datasets", "glyphs"), ("Missing option '--methods'",)),
    "nothing to list": (("list",), ("Missing argument", "methods, datasets, protocols")),
    "unknown command": (("rum",), ("unknown command 'rum'", "'run'?")),
    "results not there": (("report", "--results", "nowhere"), ("nowhere: no such results folder", "dmlbench run")),
    "results a file": (("report", "--results", "file"), ("file: not a folder",)),
    "only nothing": (("report", "--only", "ms"), ("--only 'ms': must be COLUMN=NAMES", "method=ms,ms+psd")),
    "tables of nothing": (("report", "--tables", "ms"), ("--tables 'ms': must be WHAT=NAMES", "rows=ms,ms+psd")),
    "tables of what": (("report", "--tables", "what=ms"), ("unknown choice 'what'; valid: metrics, rows",)),
    "status of nothing": (("status", "--results", "nowhere"), ("no such results folder",)),
    "two ways of status": (("status", "--results", ".", "--json", "--verify"), ("exclude each other",)),
    "watch without a terminal": (("status", "--results", ".", "--watch"), ("--watch: needs a terminal", "--json")),
    "verify nothing": (("status", "--results", ".", "--verify"), (".: no cells to verify", "run --results")),
    "reproduce nothing": (("reproduce", "--results", "nowhere"), ("nowhere: no such results folder",)),
    "reproduce no cells": (
        ("reproduce", "--results", "images"),
        ("images: no finished cells to train again", "dmlbench run"),
    ),
    "reproduce into the record": (
        ("reproduce", "--results", "images", "--output", "images/new"),
        ("--output images/new: new results would be among those of --results images", "name another folder"),
    ),
    "reproduce some cells": (("reproduce", "--cells", "some"), ("'--cells': 'some' is not a valid integer",)),
    "reproduce no data": (("reproduce", "--data-dir", "nowhere"), ("--data-dir nowhere: no such folder",)),
    "sync nothing": (("sync", "--results", "."), (".: no results to send", "run --results")),
    "address without ray": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--address", "auto"),
        ("--address auto: names a Ray cluster", "--executor ray"),
    ),
    "settings of SLURM without it": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--slurm", "time=5"),
        ("--slurm: is about SLURM jobs", "--executor slurm"),
    ),
    "waiting for no jobs": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--wait"),
        ("--wait: is about SLURM jobs", "--executor slurm"),
    ),
    "SLURM jobs without a limit": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--executor", "slurm", "--slurm", "partition=gpu"),
        ("--slurm: a time limit is needed", "--slurm time=4:00:00"),
    ),
    "a misspelt setting of SLURM": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--executor", "slurm", "--slurm", "mem=32G"),
        ("unknown key 'mem'", "valid: account"),
    ),
    "system metrics of SLURM's nodes": (
        (*TRACKED, "--methods", "ms", "--datasets", "glyphs", "--system-metrics", "--executor", "slurm"),
        ("--system-metrics: samples this machine, not SLURM's nodes", "--executor local"),
    ),
    "prefetch nothing": (("prefetch", "--methods", "ms"), ("Missing option '--datasets'",)),
    "prefetch what nobody has": (("prefetch", "--methods", "ms", "--datasets", "cup"), ("'cub'?",)),
    "system metrics for nobody": (
        (*RUN, "--methods", "ms", "--datasets", "glyphs", "--system-metrics"),
        ("--system-metrics: with --tracking none there is nowhere to send them", "leave out one"),
    ),
    "system metrics of a cluster": (
        (*TRACKED, "--methods", "ms", "--datasets", "glyphs", "--system-metrics", "--executor", "ray"),
        ("--system-metrics: samples this machine, not a Ray cluster's", "--executor local"),
    ),
    "validate nothing": (("validate", "mine.yaml"), ("mine.yaml: no such file",)),
    "validate a plugin": (("validate", "file"), ("file: not a method file", "give its YAML")),
    "ui of nothing": (("ui",), ("mlflow.db: no runs yet", "dmlbench run")),
    "evaluate nothing": (("evaluate", "nowhere"), ("nowhere: not a cell's folder", "dmlbench status")),
    "show unknown dataset": (("show", "ms", "--dataset", "cup"), ("unknown dataset 'cup'", "'cub'?")),
}
DRY = (*RUN, "--methods", "ms", "--datasets", "glyphs", "--seed", "0", "--dry-run")
RGB = ("input.channels=3", "input.mean=[0,0,0]", "input.std=[1,1,1]")
# What a run would refuse is refused by --dry-run: settings, and what is said of them.
REFUSED_DRY = {
    "backbone": (("model.backbone=timm:resnt50",), ("unknown timm model 'resnt50'", "did you mean resnet50")),
    "backbone of a hub": (("model.backbone=timm:hf-hub:timm/x",), ("'timm:hf-hub:timm/x' is fetched or read",)),
    "backbone of a folder": (("model.backbone=local-dir:x",), ("'local-dir:x' is fetched or read from elsewhere",)),
    "kwargs": (("model.kwargs.widht=3",), ("model.kwargs.widht: not a setting of conv4's shape", "valid: width")),
    "kwargs that load": (
        ("model.backbone=torchvision:resnet18", *RGB, "model.kwargs.weights=IMAGENET1K_V1"),
        ("model.kwargs.weights", "--set model.weights=FILE"),
    ),
    "weights": (
        ("model.backbone=torchvision:resnet18", *RGB, "model.weights=IMAGENET1K_V7"),
        ("model.weights: 'IMAGENET1K_V7'", "'IMAGENET1K_V1'"),
    ),
    "size": (("input.size=8",), ("input.size: conv4", "needs 16 px, not 8")),
    "size of a transformer": (
        ("model.backbone=timm:vit_tiny_patch16_224", *RGB),
        ("input.size: timm:vit_tiny_patch16_224 does not take images of 28 px",),
    ),
    "dimension": (
        ("model.embedding_dim=1000000000000",),
        ("--set: model.embedding_dim", "must be at most 65536"),
    ),
    "batch": (("training.batch_size=1000000000000",), ("--set: training.batch_size", "must be at most 65536")),
    "epochs": (("training.epochs=1000000000000",), ("--set: training.epochs", "must be at most 1000000")),
    "large image": (
        ("input.size=100000", "input.resize=100000"),
        ("--set: input.size: must be at most 4096, not 100000",),
    ),
    "ks": (("evaluation.ks=[1, 1000000000000]",), ("--set: evaluation.ks.1", "must be at most 1000000")),
    "clustering": (("evaluation.clustering_runs=100000",), ("--set: evaluation.clustering_runs", "at most 1000,")),
    "threads": (("training.cpu_threads=100000",), ("--set: training.cpu_threads", "must be at most 1024")),
    "width": (("model.kwargs.width=1000000000",), ("model.kwargs.width: must be at most 8192, not 1000000000",)),
}


@pytest.mark.parametrize("name", REFUSED_DRY)
def test_a_dry_run_refuses_what_the_run_would(name: str, dmlbench: Command, tmp_path: Path) -> None:
    settings, expected = REFUSED_DRY[name]
    _refused(dmlbench(*DRY, *(part for setting in settings for part in ("--set", setting))), expected)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_which_weights_are_not_here(
    dmlbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    settings = ("model.backbone=torchvision:resnet18", *RGB, "model.weights=IMAGENET1K_V1")
    done = dmlbench(*DRY, *(part for setting in settings for part in ("--set", setting)))
    assert done.returncode == 1, done.stderr
    assert "not ready: weights IMAGENET1K_V1 of torchvision:resnet18 are not on this machine" in done.stdout
    assert "--set model.weights=FILE" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_strangers_result_cannot_run_code(dmlbench: Command, make_cell, tmp_path: Path) -> None:
    """`evaluate` builds the network that spec.yaml describes: no key of it may name a file to load."""
    (tmp_path / "payload.py").write_text("raise SystemExit")
    cell = make_cell()
    for backbone, key in (("timm:test_resnet", "checkpoint_path"), ("torchvision:resnet18", "weights")):
        model = cell.protocol.model.model_copy(update={"backbone": backbone, "kwargs": {key: "payload.py"}})
        image = cell.protocol.input.model_copy(update={"channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3})
        changed = replace(cell, protocol=cell.protocol.model_copy(update={"model": model, "input": image}))
        folder = tmp_path / key
        folder.mkdir()
        (folder / "spec.yaml").write_text(yaml.safe_dump(changed.to_dict()))
        save_file({"head.weight": torch.zeros(1)}, folder / "weights.safetensors")
        done = dmlbench("evaluate", str(folder))
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]  # the images may have been drawn before
        assert last.startswith(f"error: model.kwargs.{key}: not a setting of {backbone}'s shape; weights come from")


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line(name: str, dmlbench: Command, tmp_path: Path) -> None:
    arguments, expected = CASES[name]
    (tmp_path / "file").touch()
    (tmp_path / "images").mkdir()
    _refused(dmlbench(*arguments), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "images"]


SEARCHED = """\
name: mine
title: Mine
kind: loss
class: triplet
paper: null
parameters:
  margin: {value: 0.2, source: a test, search: {low: 0.1, high: 0.5}}
  mining: {value: distance, source: a test}
"""
OVERRIDDEN = "value: 0.2, overrides: [{when: {dataset: cub}, value: 0.7, source: a test}]"
PINNED = """\
name: ms+psd
title: Pinned
kind: pinned
distillation:
  lambda: {value: 50, source: a test, search: {low: 1, high: 9}}
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SEARCHED.replace("0.2", "0.7"), "margin.search: 0.1 to 0.5 does not hold the value 0.7"),
        (SEARCHED.replace("value: 0.2", OVERRIDDEN), "margin.search: 0.1 to 0.5 does not hold the value 0.7"),
        (SEARCHED.replace("{low: 0.1, high: 0.5}", "{choices: [0.1, 0.3]}"), "margin.search: 0.1, 0.3 does not hold"),
        (PINNED, "lambda.search: 1 to 9 does not hold the value 50"),
        (SEARCHED.replace("parameters:", "values:"), "unknown key 'values'; did you mean 'parameters'?; valid: class,"),
        (SEARCHED.replace("search:", "serach:"), "parameters.margin: unknown key 'serach'; did you mean 'search'?"),
        (SEARCHED.replace("margin:", "margn:"), "parameters: unknown key 'margn'; did you mean 'margin'?; valid: marg"),
        (PINNED.replace("ms+psd", "none+psd").replace("50", "5"), "'none+psd': unknown method 'none'; "),
        (
            SEARCHED.replace("mining:", "x: {value: 1, source: a}\n  mining:"),
            "parameters: unknown key 'x'; valid: marg",
        ),
    ],
)
def test_validate_names_the_file_and_the_key(content: str, message: str, dmlbench: Command, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text(content)
    _refused(dmlbench("validate", "own/mine.yaml"), (f"error: own/mine.yaml: {message}",))


def test_system_metrics_without_the_library_that_takes_them(installed: Command, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['psutil'] = None\n")
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    done = installed(*TRACKED, "--methods", "ms", "--datasets", "glyphs", "--system-metrics", PYTHONPATH=path)
    _refused(done, ("--system-metrics: psutil is not installed", "pip install psutil"))


def test_unknown_key_in_a_method_file(dmlbench: Command, tmp_path: Path) -> None:
    methods = tmp_path / "mine"
    methods.mkdir()
    text = (Path(__file__).parents[2] / "methods" / "ms.yaml").read_text()
    (methods / "ms.yaml").write_text(text.replace("epsilon:", "epsilom:"))
    done = dmlbench(*RUN, "--methods", "ms", "--datasets", "glyphs", "--methods-dir", "mine")
    _refused(done, ("mine/ms.yaml: parameters", "unknown key 'epsilom'", "'epsilon'?"))
    (methods / "ms.yaml").write_text(text.replace("title: Multi", "titel: Multi"))
    _refused(dmlbench("validate", "mine/ms.yaml"), ("mine/ms.yaml: unknown key 'titel'", "'title'?"))
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "needles"),
    [
        ("model.backbone=timm:resnet5O", ("unknown timm model 'resnet5O'", "did you mean resnet50")),
        ("input.size=8", ("input.size: conv4", "needs 16 px, not 8")),
    ],
)
def test_a_network_that_cannot_be_built(
    setting: str, needles: tuple[str, ...], dmlbench: Command, tmp_path: Path
) -> None:
    dmlbench("data", "check", "glyphs")  # draws them, which is no news of the run below
    _refused(dmlbench(*RUN, "--methods", "ms", "--datasets", "glyphs", "--set", setting), needles)
    assert not (tmp_path / "results").exists()


def test_unreadable_results_folder(dmlbench: Command, tmp_path: Path) -> None:
    results = tmp_path / "results" / "runs"
    cell = results / "conv4-64" / "glyphs" / "ms" / "seed0-00000000"
    cell.mkdir(parents=True)
    (cell / "spec.yaml").write_text("{}")
    (cell / "summary.json").write_text('{"version": 99}')
    for command, code in ("report", 2), ("sync", 1):
        done = dmlbench(command)
        assert done.returncode == code
        assert done.stderr.count("results version 99 is not known here") == 1
        assert "Traceback" not in done.stderr
    for command in (("status",), ("status", "--verify")):
        shown = dmlbench(*command)
        assert shown.returncode == 1
        assert "seed0-00000000" in shown.stdout
    assert "results version 99 is not known here" in dmlbench("status", "--json").stdout
    (cell / "summary.json").write_text("{")
    assert "damaged JSON" in dmlbench("report").stderr
    assert not (tmp_path / "reports").exists()
    shutil.rmtree(results)
    results.write_text("a file in the folder's place")
    dmlbench("data", "check", "glyphs")  # draws them, which is no news of the run below
    _refused(dmlbench(*RUN, "--methods", "ms", "--datasets", "glyphs"), ("cannot write results here",))
    assert results.read_text() == "a file in the folder's place"


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="the published Omniglot archives are not at hand")
@pytest.mark.parametrize("damage", ["truncated", "wrong"])
def test_damaged_archive(damage: str, dmlbench: Command, tmp_path: Path) -> None:
    data = tmp_path / "data" / "omniglot"
    data.mkdir(parents=True)
    for archive in OMNIGLOT.glob("*.zip"):
        shutil.copy(archive, data)
    victim = data / "images_background_small2.zip"
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2] if damage == "truncated" else content[:-1] + b"x")
    found = hashlib.sha256(victim.read_bytes()).hexdigest()
    done = dmlbench(*RUN, "--methods", "ms", "--datasets", "omniglot-small", "--data-dir", "data")
    _refused(done, ("images_background_small2.zip: expected sha256:3ccaa407", f"found sha256:{found}"))
    assert not list((tmp_path / "results").rglob("*.*")) if (tmp_path / "results").exists() else True


def _refused(done, expected: tuple[str, ...]) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for text in expected:
        assert text in lines[0]
