"""`dmlbench evaluate` on embeddings of one's own and on networks as they are, and their rows in a report."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dmlbench.data.catalogue import dataset_info
from dmlbench.models.backbones import Conv4
from tests.e2e.conftest import Command


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Embeddings of 2,000 images of 100 classes, as glyphs has them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 20)
    embeddings = rng.normal(size=(100, 16))[labels] + rng.normal(size=(2000, 16))
    np.savez(tmp_path / "mine.npz", embeddings=embeddings.astype(np.float32), labels=labels)
    return tmp_path / "mine.npz"


def test_embeddings_and_a_network_are_in_the_first_table_of_a_report(
    dmlbench: Command, mine: Path, tmp_path: Path
) -> None:
    printed = dmlbench("evaluate", "--embeddings", "mine.npz")
    assert printed.returncode == 0, printed.stderr
    found = dict(line.split() for line in printed.stdout.splitlines())
    assert {"recall_at_1", "recall_at_8", "map_at_r", "r_precision", "nmi", "spectral_decay"} <= found.keys()
    assert not (tmp_path / "results").exists()

    stored = ("--results", "results/runs", "--json")
    own = dmlbench("evaluate", "--embeddings", "mine.npz", "--dataset", "glyphs", "--name", "mine", *stored)
    assert own.returncode == 0, own.stderr
    assert json.loads(own.stdout)["recall_at_1"] == pytest.approx(float(found["recall_at_1"]), rel=1e-5)
    network = dmlbench("evaluate", "--model", "conv4", "--datasets", "glyphs", "--name", "random", *stored)
    assert network.returncode == 0, network.stderr

    done = dmlbench("report", "--name", "first")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "reports" / "first" / "report.md").read_text()
    table = text.partition("**Leaderboard of conv4-64 on glyphs; not trained here**")[2].splitlines()[4:6]
    assert [line.split(" | ")[0] for line in table] == ["| mine", "| random"]
    assert all("not trained here" in line and "[" not in line for line in table)
    page = (tmp_path / "reports" / "first" / "index.html").read_text()
    assert page.count("<td>not trained here</td>") == 2 or page.count("not trained here") > 2
    assert "what was not trained here." in page
    with (tmp_path / "reports" / "first" / "tables" / "leaderboard.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "recall_at_1"]
    assert [(row["method"], row["n"], row["low"], row["best_rank"]) for row in rows] == [
        ("mine", "0", "", ""), ("random", "0", "", ""),
    ]  # fmt: skip
    again = dmlbench("evaluate", "--embeddings", "mine.npz", "--dataset", "glyphs", "--name", "mine", *stored)
    assert again.returncode == 2
    assert "mine.json: is there already" in again.stderr


def test_weights_of_a_file_are_those_that_are_scored(dmlbench: Command, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_file(Conv4(1, torch.nn.AdaptiveAvgPool2d(1)).state_dict(), tmp_path / "own.safetensors")
    scored = [
        dmlbench("evaluate", "--model", "conv4", "--datasets", "glyphs", "--json", *weights)
        for weights in ((), ("--weights", "own.safetensors"), ("--weights", "own.safetensors"))
    ]
    assert [own.returncode for own in scored] == [0, 0, 0], scored[1].stderr
    first, second, third = (json.loads(own.stdout)["map_at_r"] for own in scored)
    assert first != second == third


def test_timm_networks_of_an_own_folder_with_a_gallery(dmlbench: Command, tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    rng = np.random.default_rng(0)
    for role, names in {"train": "ab", "query": "cd", "gallery": "cde"}.items():
        for name in names:
            (tmp_path / "birds" / role / name).mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "birds" / role / name / f"{number}.png")
    done = dmlbench(
        "evaluate", "--model", "timm:resnet10t", "--datasets", "birds=birds", "--protocol", "conv4-64",
        "--results", "results/runs", "--name", "resnet10t", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queries"] == 4
    (path,) = (tmp_path / "results" / "runs" / "evaluated").rglob("*.json")
    kept = json.loads(path.read_text())
    assert (kept["test_images"], kept["query_images"], kept["test_classes"]) == (10, 4, 3)
    assert kept["about"] == "timm:resnet10t, random weights"
    assert kept["dataset_version"] == dataset_version(tmp_path)


def images(folder: Path, names: str = "abcd") -> None:
    """Two images of each class."""
    from PIL import Image  # noqa: PLC0415

    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")


def test_several_datasets_are_checked_first_and_finished_ones_stay(dmlbench: Command, tmp_path: Path) -> None:
    images(tmp_path / "a")
    asked = ("--model", "conv4", "--protocol", "conv4-64", "--results", "r", "--name", "c", "--datasets")
    first = dmlbench("evaluate", *asked, "a=a")
    assert first.returncode == 0, first.stderr
    broken = dmlbench("evaluate", *asked, "a=a,b=b")
    assert (broken.returncode, broken.stdout) == (2, "")
    assert "b: no such folder" in broken.stderr.splitlines()[-1]
    images(tmp_path / "b")
    (kept,) = (tmp_path / "r").rglob("*.json")
    before = kept.read_text()
    both = dmlbench("evaluate", *asked, "a=a,b=b")
    assert both.returncode == 0, both.stderr
    assert "a: is in the results folder already, and not scored again" in both.stderr
    assert both.stdout.startswith(f"a=a\n{first.stdout}b=b\n")
    assert kept.read_text() == before
    other = dmlbench("evaluate", "--model", "torchvision:resnet18", *asked[2:], "a=a,b=b")
    assert other.returncode == 2
    assert "c.json: is there already" in other.stderr


def test_embeddings_without_the_images_that_a_run_leaves_out(dmlbench: Command, tmp_path: Path) -> None:
    """Their row has the version of such a run, and is in no table with another version's."""
    images(tmp_path / "a", "abcdef")
    whole = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    np.savez(tmp_path / "whole.npz", embeddings=whole, labels=[0, 0, 1, 1, 2, 2])
    np.savez(tmp_path / "less.npz", embeddings=whole[:5], labels=[0, 0, 1, 1, 2])
    asked = ("--dataset", "a=a", "--protocol", "conv4-64", "--results", "r")
    assert dmlbench("evaluate", "--embeddings", "whole.npz", *asked, "--name", "whole").returncode == 0
    (tmp_path / "a" / "f" / "1.png").write_bytes(b"no image")
    refused = dmlbench("evaluate", "--embeddings", "less.npz", *asked, "--name", "less")
    assert "less.npz: has 5 test images, and a has 6" in refused.stderr
    done = dmlbench("evaluate", "--embeddings", "less.npz", *asked, "--name", "less", "--skip-bad")
    assert done.returncode == 0, done.stderr
    refused = dmlbench("evaluate", "--embeddings", "whole.npz", *asked, "--name", "again", "--skip-bad")
    assert "whole.npz: has 6 test images, and a has 5 without 1 unusable image" in refused.stderr
    report = dmlbench("report", "--results", "r", "--name", "first")
    assert "whole.json: is of other images of a than the row less, which counts: it comes first" in report.stderr
    text = (tmp_path / "reports" / "first" / "report.md").read_text()
    assert "| less" in text
    assert "| whole" not in text


def dataset_version(folder: Path) -> str:
    from dmlbench.data.ready import dataset_spec  # noqa: PLC0415

    return dataset_spec(dataset_info(f"birds={folder / 'birds'}"), None, print).version


REFUSED = {
    "nothing": ((), "nothing to score; name a cell's folder, or --embeddings FILE"),
    "a model without data": (("--model", "conv4"), "--model: needs --datasets"),
    "an unknown model": (("--model", "timm:resnt50", "--datasets", "glyphs"), "unknown timm model 'resnt50'"),
    "weights that are none": (
        ("--model", "conv4", "--weights", "pretrained", "--datasets", "glyphs"), "'pretrained' is no weights file",
    ),
    "weights that are not there": (
        ("--model", "conv4", "--weights", "x.pth", "--datasets", "glyphs"), "--weights x.pth: cannot be read",
    ),
    "model and embeddings": (
        ("--model", "conv4", "--embeddings", "mine.npz", "--datasets", "glyphs"),
        "--embeddings: cannot be combined with --model",
    ),
    "a cell with labels": (("nowhere", "--labels", "x.csv"), "--labels: cannot be combined with CELL"),
    "embeddings with weights": (
        ("--embeddings", "mine.npz", "--weights", "x.pth"),
        "--weights: cannot be combined with --embeddings without CELL",
    ),
    "k": (("--embeddings", "mine.npz", "--ks", "1,x"), "--ks '1,x': must be whole numbers from 1"),
    "results without a name": (
        ("--embeddings", "mine.npz", "--dataset", "glyphs", "--results", "r"), "--results and --name go together",
    ),
    "results without a dataset": (
        ("--embeddings", "mine.npz", "--results", "r", "--name", "x"), "--results: needs --dataset",
    ),
    "a method's name": (
        ("--embeddings", "mine.npz", "--dataset", "glyphs", "--results", "r", "--name", "ms"),
        "--name ms: is a method's name",
    ),
    "another dataset": (
        ("--embeddings", "mine.npz", "--dataset", "cub", "--results", "r", "--name", "x"),
        "--embeddings mine.npz: has 2000 test images, and cub has 5924",
    ),
    "k without 1 for a leaderboard": (
        ("--embeddings", "mine.npz", "--ks", "2,4", "--dataset", "glyphs", "--results", "r", "--name", "x"),
        "--ks 2, 4: a row of the leaderboard has recall_at_1; add 1",
    ),
    "a device for embeddings": (
        ("--embeddings", "mine.npz", "--device", "bogus"), "--device: cannot be combined with --embeddings",
    ),
    "a device that is none": (
        ("--model", "conv4", "--datasets", "glyphs", "--device", "bogus"), "--device: unknown device 'bogus'",
    ),
    "data of no dataset": (("--embeddings", "mine.npz", "--data-dir", "."), "--data-dir: needs --dataset"),
    "images left out of no dataset": (("--embeddings", "mine.npz", "--skip-bad"), "--skip-bad: needs --dataset"),
    "a dataset twice": (("--model", "conv4", "--datasets", "glyphs,glyphs"), "--datasets: 'glyphs' is given twice"),
    "no queries": (
        ("--embeddings", "short.npz", "--dataset", "omniglot-small"), "has 4 test images, and omniglot-small has 2120",
    ),
    "an unknown protocol": (
        ("--embeddings", "mine.npz", "--dataset", "glyphs", "--protocol", "conv5"), "unknown protocol 'conv5'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_one_clear_line(name: str, dmlbench: Command, mine: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "short.npz", embeddings=np.eye(4), labels=[0, 0, 1, 1])
    arguments, message = REFUSED[name]
    refused = dmlbench("evaluate", *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "r").exists()
