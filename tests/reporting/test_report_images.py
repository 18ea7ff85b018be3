"""Which images a report shows: those whose licence lets anyone show them, others where they are asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmlbench.analysis.groups import groups
from dmlbench.data.catalogue import DATASETS, images_may_be_shown
from dmlbench.data.family import fingerprint
from dmlbench.data.images import load_dataset
from dmlbench.errors import UserError
from dmlbench.reporting import queries as module
from dmlbench.reporting.queries import MAPS, Panels, Queries
from dmlbench.reporting.style import Look
from dmlbench.results.frames import load_results
from dmlbench.specs.cell import Cell, DatasetSpec
from tests.kept import keep
from tests.reporting.fake_results import make_cell, method, protocol, write_cell

UNASKED, ASKED = Panels(None, asked=False), Panels(None)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture
def glyphs(cache, monkeypatch) -> dict:
    """What a summary says of the embedded dataset, which is in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    train, test = DATASETS["glyphs"].family.read(None, lambda _: None)
    return {"name": "glyphs", "version": "1", "fingerprint": fingerprint(train, test)}


def write(root, name, seed=0, *, data, cell=None, labels=None):
    labels = np.repeat(np.arange(100), 20) if labels is None else labels
    rng = np.random.default_rng([seed, len(name)])
    vectors = rng.normal(size=(labels.max() + 1, 8))[labels] + rng.normal(size=(len(labels), 8))
    return keep(write_cell(root, cell or make_cell(name, seed), dataset=data), vectors, labels)


def read(root) -> Queries:
    return Queries.of(load_results(root), lambda _: None)


def plots(found: Queries, panels):
    (group,) = groups(found.kept)
    return {plot.slug.partition("_")[0]: plot for plot in found.plots(group, Look.of(found.kept), panels)}


def images_of(plot):
    return [image for axes in plot.figure.axes for image in axes.images]


def test_a_licence_says_whether_anyone_may_show_the_images():
    shown = {name for name in DATASETS if images_may_be_shown(DatasetSpec(name=name, version="1"))}
    assert shown == {"glyphs", "omniglot-small"}
    assert all("MIT" in info.licence for info in DATASETS.values() if info.images_may_be_shown)
    assert not images_may_be_shown(DatasetSpec(name="birds", version="1"))
    assert not images_may_be_shown(DatasetSpec(name="glyphs", version="1", root="/somebody/elses"))


def test_images_that_anyone_may_show_are_shown_unasked(tmp_path, glyphs):
    for name in ("ms", "ms+psd"):
        write(tmp_path, name, data=glyphs)
    found = read(tmp_path)
    shown = plots(found, UNASKED)
    assert list(shown) == ["classes", "confusions", "panel", "gallery"]
    assert all(images_of(plot) for plot in shown.values())
    assert shown["panel"].data["name"].unique().tolist() == ["ms+psd"]  # it has a reference
    assert shown["gallery"].data["name"].unique().tolist() == ["ms"]  # it has none
    assert not found.shows_private_images(UNASKED)
    assert not found.shows_private_images(ASKED)
    without = plots(found, None)
    assert list(without) == ["classes", "confusions"]
    assert not any(images_of(plot) for plot in without.values())
    data = without["confusions"].data
    assert (data["class_name"] == "class " + data["label"].astype(str)).all()
    assert shown["confusions"].data["class_name"].str.startswith("test").all()  # as the dataset calls them


def test_a_report_of_one_method_has_a_gallery(tmp_path, glyphs):
    write(tmp_path, "ms", 3, data=glyphs)
    write(tmp_path, "ms", 5, data=glyphs)
    found = read(tmp_path)
    (gallery,) = plots(found, UNASKED).values()
    assert gallery.slug == "gallery_conv4-64_glyphs_ms_seed3"
    assert len(images_of(gallery)) == 10 * (1 + 5)
    hits = int(next(iter(found.measured.values())).nearest.hits.sum())
    assert f"Hits: {hits:,} of all 2,000 queries, {gallery.data.drop_duplicates('query')['hit'].sum()} of these 10" in (
        gallery.caption
    )
    assert gallery.data.groupby("query")["rank"].apply(list).tolist() == [[1, 2, 3, 4, 5]] * 10


def test_other_images_are_not_shown_unasked_and_refused_where_they_are_asked_for(tmp_path, glyphs):
    for name in ("ms", "ms+psd"):
        write(tmp_path, name, data=glyphs | {"fingerprint": "f00dfeed12345678"})
    found = read(tmp_path)
    assert list(plots(found, UNASKED)) == ["classes", "confusions"]
    found.check_images(UNASKED)
    with pytest.raises(UserError, match="ran on other images of glyphs"):
        found.check_images(ASKED)
    with pytest.raises(UserError, match="ran on other images of glyphs"):
        plots(found, ASKED)


def test_own_images_are_shown_where_their_owner_asks_and_are_private(tmp_path, birds):
    cell = Cell(method("ms"), birds, protocol(), 0)
    data = birds.model_dump() | {"fingerprint": load_dataset(birds).fingerprint}
    write(tmp_path / "runs", "ms", data=data, cell=cell, labels=np.array([0, 0, 1, 1]))
    found = read(tmp_path / "runs")
    assert plots(found, UNASKED) == {}
    assert not found.shows_private_images(UNASKED)
    assert list(plots(found, ASKED)) == ["gallery"]
    assert found.shows_private_images(ASKED)


def test_what_a_user_chooses(tmp_path, monkeypatch):
    monkeypatch.delenv("DMLBENCH_DATA", raising=False)
    assert Panels.of(False, tmp_path) is None
    assert Panels.of(True, tmp_path) == Panels(tmp_path)
    assert Panels.of(None, tmp_path) == Panels(tmp_path, asked=False)
    for choice in (True, None):
        with pytest.raises(UserError, match=r"--data-dir .*nowhere: no such folder"):
            Panels.of(choice, tmp_path / "nowhere")
    monkeypatch.setenv("DMLBENCH_DATA", str(tmp_path / "nowhere"))
    assert Panels.of(None, None) is None
    with pytest.raises(UserError, match=r"DMLBENCH_DATA .*nowhere: no such folder"):
        Panels.of(True, None)


def test_images_in_memory_need_no_torch(tmp_path, glyphs):
    folder = write(tmp_path, "ms", data=glyphs)
    code = (
        "import sys; from pathlib import Path; from dmlbench.reporting.figures.panels import thumbnails; "
        f"found = thumbnails(Path({str(folder)!r}), None, [7]); print(found.pixels[7].shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(28, 28) False"


def test_a_map_has_the_lowest_seed_of_bases_first_and_says_how_many_are_left_out(tmp_path, monkeypatch):
    bases = ("contrastive", "triplet", "margin", "ms", "proxyanchor")
    data, labels = {"name": "glyphs", "version": "1", "fingerprint": "f"}, np.arange(12) // 4
    for base in bases:
        for modifier in ("", "+psd", "+obdsd"):
            cell = make_cell("ms" + modifier, 4)
            loss = cell.method.loss.model_copy(update={"name": base})
            own = cell.method.model_copy(update={"name": base + modifier, "loss": loss})
            for seed in (4, 2):
                write(tmp_path, base, seed, data=data, cell=Cell(own, cell.dataset, cell.protocol, seed), labels=labels)
    mapped = []

    def fake(folder):
        mapped.append(folder)
        return pd.DataFrame({"image": range(12), "label": labels, "x": 1.0, "y": 2.0})

    monkeypatch.setattr(module, "embedding_map", fake)
    found = read(tmp_path)
    (group,) = groups(found.kept)
    (plot,) = found.map(group)
    names = plot.data["name"].unique().tolist()
    assert len(names) == MAPS
    assert set(names) == {*bases, *(f"{base}+psd" for base in bases), "contrastive+obdsd", "triplet+obdsd"}
    assert "without one: 3 methods" in plot.caption
    assert all("seed2-" in folder.name for folder in mapped)
    assert plot.data["class_name"].unique().tolist() == ["class 0", "class 1", "class 2"]


def test_figures_of_many_methods_are_in_parts_that_fit_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIT", 2)
    names = ["ms", "triplet", "margin", "contrastive"]
    labels = np.repeat(np.arange(6), 4)
    for name in names:
        write(tmp_path, name, data={"name": "glyphs", "version": "1", "fingerprint": "f"}, labels=labels)
    found = read(tmp_path)
    (group,) = groups(found.kept)
    drawn = [plot for plot in found.plots(group, Look.of(found.kept), None) if plot.slug.startswith("confusions")]
    assert [plot.slug[-2:] for plot in drawn] == ["_1", "_2"]
    assert [plot.caption[-12:] for plot in drawn] == ["Part 1 of 2.", "Part 2 of 2."]
    shown = [set(plot.data["name"]) for plot in drawn]
    assert [len(own) for own in shown] == [2, 1]
    assert not shown[0] & shown[1]


def test_nothing_is_downloaded_to_show_images(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("dmlbench.data.archives.fetch", lambda *arguments, **options: pytest.fail("downloads"))
    omniglot = {"name": "omniglot-small", "version": "1", "fingerprint": "f"}
    for name in ("ms", "ms+psd"):
        cell = make_cell(name, 0, "omniglot-small")
        write(tmp_path / "runs", name, data=omniglot, cell=cell, labels=np.repeat(np.arange(106), 20))
    found = read(tmp_path / "runs")
    assert not images_of(plots(found, UNASKED)["confusions"])
    with pytest.raises(UserError, match="no such data folder"):
        plots(found, ASKED)
    assert not (tmp_path / "empty").exists()


def test_a_folder_that_a_strangers_spec_names_is_not_read_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr("dmlbench.data.images.load_of_cell", lambda *arguments: pytest.fail("reads it"))
    spec = DatasetSpec(name="glyphs", version="1", root="/somebody/elses")
    for name in ("ms", "ms+psd"):
        cell = Cell(method(name), spec, protocol(), 0)
        write(tmp_path, name, data={"name": "glyphs", "version": "1", "fingerprint": "f"}, cell=cell)
    found = read(tmp_path)
    assert not images_of(plots(found, UNASKED)["confusions"])
    assert found.shows_private_images(ASKED)


def test_embeddings_of_more_images_than_there_are_show_none(tmp_path, glyphs):
    for name in ("ms", "ms+psd"):
        write(tmp_path, name, data=glyphs, labels=np.repeat(np.arange(120), 20))
    found = read(tmp_path)
    assert not images_of(plots(found, UNASKED)["confusions"])
    with pytest.raises(UserError, match=r"has embeddings of \d+ images or more, and the dataset 2000"):
        plots(found, ASKED)
