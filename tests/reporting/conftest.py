"""A rendered report that the tests of this folder share."""

from pathlib import Path

import pytest
from PIL import Image

from dmlbench.analysis import estimates
from dmlbench.data.catalogue import dataset_info
from dmlbench.data.ready import dataset_spec
from dmlbench.reporting.page import render
from dmlbench.results.frames import load_results
from dmlbench.results.store import Store
from dmlbench.results.writer import CellWriter
from tests.reporting.fake_results import METHODS, make_cell, write_cell, write_failure


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """Two datasets, two protocol variants, five methods; a failed cell, a single seed, an interrupted cell."""
    root = tmp_path_factory.mktemp("results") / "runs"
    for dataset in ("glyphs", "omniglot-small"):
        for name in METHODS:
            seeds = 1 if (dataset, name) == ("omniglot-small", "proxyanchor+psd") else 5
            for seed in range(seeds):
                write_cell(root, make_cell(name, seed, dataset))
    held_out = {"epochs": 6, "validation": 0.2, "overrides": ("training.epochs=6", "validation.classes=0.2")}
    for name in ("ms", "ms+psd"):
        for seed in range(3):
            write_cell(root, make_cell(name, seed, **held_out))
    write_failure(root, make_cell("ms+dm2", 0), "cannot open /home/alice/data/secret/glyphs.npz: no such file")
    interrupted = make_cell("ms+dm2", 1)
    folder = Store(root).folder(interrupted)
    folder.mkdir(parents=True)
    writer = CellWriter(folder)
    writer.begin(interrupted)
    writer.append({"epoch": 0})
    return root


@pytest.fixture(scope="session")
def report(results, tmp_path_factory) -> Path:
    return render(results, "first", tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="session")
def arranged(results):
    return load_results(results)


@pytest.fixture(scope="session")
def values(arranged):
    return estimates.seed_values(arranged)


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """A folder of four classes, two to test, of two images each; test image 1 is green."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place, name in enumerate("abcd"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            colour = (40 * place, 100 * number, 7)
            Image.new("RGB", (20, 30), colour).save(tmp_path / "images" / name / f"{number}.png")
    return dataset_spec(dataset_info(f"birds={tmp_path / 'images'}"), None, lambda _: None)
