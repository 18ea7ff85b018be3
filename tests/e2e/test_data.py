"""`dmlbench data`, and runs on folders of images."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmlbench import read_embeddings
from tests.e2e.conftest import TINY, Command, metric_columns

RUN = ("run", "--tracking", "none", "--methods", "ms", "--protocol", "conv4-64", "--seeds", "1", *TINY)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Four classes of four images."""
    rng = np.random.default_rng(0)
    for name in ("crow", "duck", "jay", "wren"):
        folder = tmp_path / "birds" / name
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=95)
    return tmp_path / "birds"


@pytest.fixture
def bad_birds(birds: Path) -> Path:
    whole = (birds / "crow" / "0.jpg").read_bytes()
    (birds / "crow" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (birds / "duck" / "empty.jpg").write_bytes(b"")
    (birds / "jay" / "._0.jpg").write_bytes(b"")
    with Image.open(birds / "jay" / "0.jpg") as image:
        image.convert("CMYK").save(birds / "jay" / "cmyk.jpg")
        image.convert("L").save(birds / "jay" / "grey.jpg")
        image.resize((1, 1)).save(birds / "wren" / "dot.jpg")
    return birds


def test_check_names_each(dmlbench: Command, bad_birds: Path) -> None:
    done = dmlbench("data", "check", "birds=birds")
    assert done.returncode == 1
    assert done.stderr == ""
    for line in (
        "birds: 1 other file below birds is ignored (jay/._0.jpg)",
        "3 images cannot be used:",
        "  crow/truncated.jpg: truncated",
        "  duck/empty.jpg: empty file",
        "  wren/dot.jpg: 1 x 1 px: shows nothing (the least is 8)",
        "2 images not RGB:",
        "  jay/cmyk.jpg: CMYK, becomes RGB",
        "  jay/grey.jpg: grey, becomes RGB",
        "NOT sound: a run refuses it as it is",
    ):
        assert line in done.stdout.splitlines(), done.stdout


@pytest.mark.slow
def test_run_refuses_the_list_unless_told_to_skip(dmlbench: Command, bad_birds: Path, tmp_path: Path) -> None:
    refused = dmlbench(*RUN, "--datasets", "birds=birds")
    assert refused.returncode == 2
    for name in ("crow/truncated.jpg (truncated)", "duck/empty.jpg (empty file)", "wren/dot.jpg (1 x 1 px"):
        assert name in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()

    done = dmlbench(*RUN, "--datasets", "birds=birds", "--skip-bad")
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / "results").rglob("summary.json")
    dataset = json.loads(summary.read_text())["dataset"]
    assert dataset["skipped"] == ["crow/truncated.jpg", "duck/empty.jpg", "wren/dot.jpg"]
    assert (dataset["train_images"], dataset["test_images"]) == (8, 10)
    again = dmlbench(*RUN, "--datasets", "birds=birds", "--skip-bad")
    assert "1 there already, 0 to run" in again.stdout


@pytest.mark.slow
def test_a_sound_folder_runs_and_its_fingerprint_is_the_checked_one(
    dmlbench: Command, birds: Path, tmp_path: Path
) -> None:
    checked = dmlbench("data", "check", "birds=birds")
    assert checked.returncode == 0
    assert "sound: a run takes it as it is" in checked.stdout
    done = dmlbench(*RUN, "--datasets", "birds=birds")
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / "results").rglob("summary.json")
    dataset = json.loads(summary.read_text())["dataset"]
    assert f"fingerprint {dataset['fingerprint']}" in checked.stdout
    assert dataset["fingerprint"].startswith(dataset["version"])
    assert "root" not in dataset


@pytest.mark.slow
def test_changed_images_are_another_experiment(dmlbench: Command, birds: Path, tmp_path: Path) -> None:
    assert dmlbench(*RUN, "--datasets", "birds=birds").returncode == 0
    (birds / "crow" / "0.jpg").write_bytes((birds / "crow" / "1.jpg").read_bytes())
    dry = dmlbench(*RUN, "--datasets", "birds=birds", "--dry-run")
    assert "1 of 1 cell to run" in dry.stdout
    assert dmlbench(*RUN, "--datasets", "birds=birds").returncode == 0
    assert len(list((tmp_path / "results").rglob("summary.json"))) == 2


@pytest.mark.slow
def test_workers_and_another_place_change_nothing(dmlbench: Command, birds: Path, tmp_path: Path) -> None:
    crops = ("--set", "input.augmentation=crop", "--set", "input.channels=3", "--set", "input.mean=[0.5, 0.5, 0.5]",
             "--set", "input.std=[0.5, 0.5, 0.5]", "--set", "training.batch_size=4")  # fmt: skip
    (tmp_path / "birds.yaml").write_text("name: birds\nroot: birds\nsplit: {train: [crow, duck], test: [jay, wren]}\n")
    for text, folder, workers in (("birds=birds", "a", 0), ("birds.yaml", "b", 2), ("birds=moved", "c", 1)):
        if "moved" in text:
            birds.rename(tmp_path / "moved")
        named = ("--results", folder, "--data-workers", str(workers))
        done = dmlbench(*RUN, *crops, "--datasets", text, *named)
        assert done.returncode == 0, done.stderr
    first, second, third = (metric_columns(tmp_path / name) for name in "abc")
    assert len(first) == 1
    assert first == second == third


@pytest.mark.slow
def test_evaluate_on_a_folder(dmlbench: Command, birds: Path, tmp_path: Path) -> None:
    assert dmlbench(*RUN, "--datasets", "birds=birds", "--keep", "weights").returncode == 0
    (cell,) = (tmp_path / "results").glob("runs/*/*/*/seed0-*")
    own = dmlbench("evaluate", str(cell), "--json")
    named = dmlbench("evaluate", str(cell), "--dataset", "again=birds", "--json")
    assert own.returncode == named.returncode == 0, own.stderr + named.stderr
    assert json.loads(own.stdout) == json.loads(named.stdout)


@pytest.mark.slow
def test_kept_embeddings_name_their_images(dmlbench: Command, birds: Path, tmp_path: Path) -> None:
    assert dmlbench(*RUN, "--datasets", "birds=birds", "--keep", "weights,embeddings").returncode == 0
    (cell,) = (tmp_path / "results").glob("runs/*/*/*/seed0-*")
    kept = read_embeddings(cell)
    assert len(kept.paths) == len(kept.class_names) == len(kept.labels) == len(kept.vectors)
    assert all((birds / path).is_file() for path in kept.paths)
    assert kept.class_names == tuple(path.split("/")[0] for path in kept.paths)
    assert len(set(zip(kept.labels.tolist(), kept.class_names, strict=True))) == len(set(kept.class_names)) > 1

    again = dmlbench("evaluate", str(cell), "--embeddings", "mine.safetensors")
    assert again.returncode == 0, again.stderr
    written = read_embeddings(tmp_path / "mine.safetensors")
    assert (written.paths, written.class_names) == (kept.paths, kept.class_names)
    assert written.labels.tolist() == kept.labels.tolist()
    assert abs(written.vectors - kept.vectors).max() < 1e-5
    (tmp_path / "mine.safetensors").write_bytes(b"precious")
    for file, told in ("mine.safetensors", "exists already"), ("mine.csv", "must be a .safetensors"):
        refused = dmlbench("evaluate", str(cell), "--embeddings", file)
        assert refused.returncode == 2
        assert told in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert (tmp_path / "mine.safetensors").read_bytes() == b"precious"


@pytest.mark.slow
def test_info_draws_a_contact_sheet(dmlbench: Command, birds: Path, tmp_path: Path) -> None:
    done = dmlbench("data", "info", "birds=birds")
    assert done.returncode == 0, done.stderr
    assert re.search(r"train +2 +8 +4 +50 +40", done.stdout)
    assert "images in reports: shown with --panels only" in done.stdout
    with Image.open(tmp_path / "birds-contact-sheet.png") as sheet:
        assert min(sheet.size) > 200
    refused = dmlbench("data", "info", "birds=birds", "--sheet", "nowhere/sheet.png")
    assert refused.returncode == 2
    assert "nowhere/sheet.png" in refused.stderr
    assert dmlbench("data", "info", "birds=birds").returncode == 0
    Image.new("L", (9, 9)).save(tmp_path / "photograph.png")
    (tmp_path / "text.png").write_text("precious")
    (tmp_path / "link.png").symlink_to("birds-contact-sheet.png")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    for name in ("photograph", "text", "link"):
        refused = dmlbench("data", "info", "birds=birds", "--sheet", f"{name}.png")
        assert refused.returncode == 2
        assert f"--sheet {name}.png: exists and is no contact sheet of dmlbench" in refused.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.png")} == before


def test_fetch_says_what_to_place_where_no_link_lives(dmlbench: Command) -> None:
    done = dmlbench("data", "fetch", "cars", "--data-dir", "data")
    assert done.returncode == 2
    assert "links are dead; place car_ims/ with cars_annos.mat" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_fetch_of_what_is_there(dmlbench: Command, birds: Path) -> None:
    assert "is there" in dmlbench("data", "fetch", "glyphs").stdout
    assert "is there" in dmlbench("data", "fetch", "birds=birds").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("data", "check", "cup"), "unknown dataset 'cup'; did you mean 'cub'?"),
        (("data", "check", "cub", "--data-dir", "absent"), "--data-dir absent: no such folder"),
        (("data", "check", "cars", "--data-dir", "."), "holds no layout of Cars196"),
        (("data", "check", "birds=absent"), "absent: no such folder"),
        ((*RUN, "--datasets", "birds=absent"), "absent: no such folder"),
        ((*RUN, "--datasets", "cub=birds"), "is a dataset of the catalogue"),
        ((*RUN, "--datasets", "birds=birds,birds=birds/.."), "'birds' is declared twice"),
        ((*RUN, "--datasets", "sop", "--data-dir", "."), "dmlbench data fetch sop"),
    ],
)
def test_bad_input(dmlbench: Command, birds: Path, tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    done = dmlbench(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()
