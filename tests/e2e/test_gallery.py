"""A dataset with queries and a gallery through the whole program: data, training, records, panels, report."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmlbench import read_embeddings
from tests.e2e.conftest import TINY, Command
from tests.evaluation.naive_retrieval import naive_retrieval

ROLES = {"train": ("crow", "duck", "hawk", "ibis"), "query": ("jay", "wren", "kite"), "gallery": ("jay", "wren", "owl")}
COUNTS = {"train": 5, "query": 3, "gallery": 4}
RUN = (
    "run",
    "--tracking",
    "none",
    "--protocol",
    "conv4-64",
    "--keep",
    "embeddings",
    "--datasets",
    "birds=birds",
    *TINY,
)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Nine queries in three classes, of which the gallery has two, and one class that is in the gallery alone."""
    rng = np.random.default_rng(0)
    for role, names in ROLES.items():
        for name in names:
            folder = tmp_path / "birds" / role / name
            folder.mkdir(parents=True)
            shade = rng.integers(0, 200, (8, 8, 3))
            for number in range(COUNTS[role]):
                pixels = (shade + rng.integers(0, 50, (8, 8, 3))).astype(np.uint8)
                Image.fromarray(pixels).resize((24, 24)).save(folder / f"{number}.png")
    return tmp_path / "birds"


@pytest.mark.slow
def test_queries_search_the_gallery_from_folder_to_report(dmlbench: Command, birds: Path, tmp_path: Path) -> None:
    checked = dmlbench("data", "check", "birds=birds")
    assert checked.returncode == 0, checked.stderr
    for said in ("- query", "- gallery", "3 queries are of a class that the gallery does not have, and are left out"):
        assert said in checked.stdout
    done = dmlbench(*RUN, "--methods", "ms,ms+psd", "--seeds", "3", "--set", "training.batch_size=8")
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (tmp_path / "results").rglob("summary.json"):
        summary = json.loads(path.read_text())
        data = summary["dataset"]
        assert (data["test_images"], data["query_images"], data["test_classes"]) == (21, 9, 4)
        kept = read_embeddings(path.parent)
        asks = kept.queries
        assert asks.sum() == 9
        assert [image.split("/")[0] == "query" for image in kept.paths] == asks.tolist()
        assert [image.split("/")[1] for image in kept.paths] == list(kept.class_names)
        gallery = kept.vectors[~asks], kept.labels[~asks]
        expected = naive_retrieval(kept.vectors[asks], kept.labels[asks], (1, 2, 4, 8), gallery)
        last = summary["selections"]["last"]["metrics"]
        assert {name: last[name] for name in expected} == pytest.approx(expected, abs=1e-6)
        assert (last["queries"], last["singleton_queries"]) == (6, 3)

    reported = dmlbench("report", "--name", "birds", "--panels")
    assert reported.returncode == 0, reported.stderr
    text = (tmp_path / "reports" / "birds" / "report.md").read_text()
    assert "9 of them queries that search the other 12, the gallery" in text
    with (tmp_path / "reports" / "birds" / "tables" / "queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert all(int(row["queries"]) == 6 and int(row["classes"]) == 2 for row in rows)
    with_images = kinds_of_figures(tmp_path / "reports" / "birds")
    assert {"gallery", "classes", "map", "embeddings"} <= with_images
    assert (tmp_path / "reports" / "birds" / ".gitignore").read_text().endswith("*\n")  # the owner's images

    unasked = dmlbench("report", "--name", "unasked")
    assert unasked.returncode == 0, unasked.stderr
    assert kinds_of_figures(tmp_path / "reports" / "unasked") == with_images - {"gallery", "panel"}
    assert not (tmp_path / "reports" / "unasked" / ".gitignore").exists()


def kinds_of_figures(report: Path) -> set[str]:
    """The first words of the figures' names."""
    return {path.name.partition("_")[0] for path in (report / "figures").glob("*.svg")}


@pytest.mark.slow
def test_images_that_anyone_may_show_are_in_a_report_unasked(dmlbench: Command, tmp_path: Path) -> None:
    words = [word for word in RUN if word not in ("--datasets", "birds=birds")]
    done = dmlbench(*words, "--datasets", "glyphs", "--methods", "ms,ms+psd", "--seeds", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    reported = dmlbench("report", "--name", "glyphs")
    assert reported.returncode == 0, reported.stderr
    shown = kinds_of_figures(tmp_path / "reports" / "glyphs")
    assert {"gallery", "panel", "classes", "confusions", "map", "embeddings"} <= shown
    assert not (tmp_path / "reports" / "glyphs" / ".gitignore").exists()
    with next((tmp_path / "reports" / "glyphs" / "figures").glob("confusions_*.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["ms+psd"] * 8
    assert all(row["class_name"].startswith("test") for row in rows)

    without = dmlbench("report", "--name", "without", "--no-panels")
    assert without.returncode == 0, without.stderr
    assert kinds_of_figures(tmp_path / "reports" / "without") == shown - {"gallery", "panel"}
    refused = dmlbench("report", "--name", "sent", "--panels", "--tracking", "auto")
    assert refused.returncode == 2
    assert "--panels: MLflow is sent no images" in refused.stderr
    asked = dmlbench("report", "--name", "asked", "--panels")
    assert asked.returncode == 0, asked.stderr
    assert not (tmp_path / "reports" / "asked" / ".gitignore").exists()


@pytest.mark.slow
def test_a_csv_of_the_same_images_gives_the_same_cell(dmlbench: Command, birds: Path, tmp_path: Path) -> None:
    rows = [
        (path.relative_to(tmp_path).as_posix(), path.parent.name, path.parent.parent.name)
        for path in birds.rglob("*.png")
    ]
    text = "\n".join(["path,label,split", *(",".join(row) for row in rows)])
    (tmp_path / "list.csv").write_text(text)
    methods = ("--methods", "ms", "--seeds", "1", "--set", "training.batch_size=8")
    assert dmlbench(*RUN, *methods).returncode == 0
    listed = [word.replace("birds=birds", "birds=list.csv") for word in RUN]
    again = dmlbench(*listed, *methods)
    assert again.returncode == 0, again.stderr
    assert "1 there already, 0 to run" in again.stdout


def test_validation_of_the_split_is_one_line(dmlbench: Command, birds: Path) -> None:
    (birds / "query" / "crow").mkdir()
    (birds / "query" / "crow" / "0.png").write_bytes((birds / "train" / "crow" / "0.png").read_bytes())
    refused = dmlbench(*RUN, "--methods", "ms")
    assert refused.returncode == 2
    assert "1 class of birds in train are tested as well (crow); a class either trains or is tested" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_gallery_cannot_be_split_anew(dmlbench: Command, birds: Path, tmp_path: Path) -> None:
    refused = dmlbench(*RUN, "--methods", "ms", "--vary", "split")
    assert refused.returncode == 2
    assert "training.vary=split: birds tests queries on a gallery" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "results").exists()
