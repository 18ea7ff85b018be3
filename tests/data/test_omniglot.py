import shutil

import numpy as np
import pytest

from dmlbench.data import archives, omniglot
from dmlbench.data.archives import file_checksum
from dmlbench.data.images import load_dataset
from dmlbench.errors import UserError
from dmlbench.specs.cell import DatasetSpec


def test_the_published_archives(real_omniglot):
    dataset = load_dataset(DatasetSpec(name="omniglot-small", version=omniglot.VERSION), real_omniglot)
    assert (len(dataset.train.class_names), len(dataset.train.images)) == (136, 2_720)
    assert (len(dataset.test.class_names), len(dataset.test.images)) == (106, 2_120)
    assert {name.split("/")[0] for name in dataset.test.class_names} == {"Japanese_(katakana)", "Sanskrit", "Tagalog"}
    assert not set(dataset.train.class_names) & set(dataset.test.class_names)
    for split in (dataset.train, dataset.test):
        assert split.images.shape[1:] == (1, 105, 105)
        assert split.labels.bincount().unique().tolist() == [20]
        assert 0.02 < (split.images == 255).float().mean() < 0.2  # ink, not paper
        assert set(split.images.unique().tolist()) == {0, 255}


def test_split_order_and_polarity(fake_omniglot):
    train, test = omniglot.read(fake_omniglot, print)
    assert train.class_names == ("Balinese/character01", "Balinese/character02", "Greek/character01")
    assert test.class_names == ("Sanskrit/character01",)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    inked_rows = (train.images[:, 0, :, 0] == 255).sum(axis=1)
    assert inked_rows.tolist() == [1, 2, 3] * 3  # drawings in order of their names, ink 255
    assert train.images.dtype == np.uint8


@pytest.mark.parametrize("depth", ["", "omniglot", "data/omniglot/python"])
def test_archives_are_found_at_sensible_depths(fake_omniglot, tmp_path, depth):
    folder = tmp_path / "elsewhere"
    shutil.copytree(fake_omniglot / "omniglot", folder / depth)
    assert len(omniglot.read(folder, print)[0].images) == 9


def test_an_intact_copy_is_preferred_to_a_damaged_one(fake_omniglot):
    (fake_omniglot / omniglot.TRAIN.name).write_bytes(b"half a download")
    omniglot.prepare(fake_omniglot, print)


def test_a_given_folder_without_an_archive(fake_omniglot, monkeypatch):
    monkeypatch.setattr(archives, "fetch", no_download)
    missing = fake_omniglot / "omniglot" / omniglot.TEST.name
    missing.unlink()
    before = sorted(fake_omniglot.rglob("*"))
    message = refusal(fake_omniglot)
    assert f"{omniglot.TEST.name} not found" in message
    assert omniglot.TEST.sha256 in message
    assert omniglot.URL + omniglot.TEST.name in message
    assert sorted(fake_omniglot.rglob("*")) == before


def test_a_given_folder_that_is_none(tmp_path):
    assert "no such data folder" in refusal(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "no such data folder" in refusal(tmp_path / "file")


def test_a_truncated_archive(fake_omniglot, monkeypatch):
    monkeypatch.setattr(archives, "fetch", no_download)
    path = fake_omniglot / "omniglot" / omniglot.TRAIN.name
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(fake_omniglot)
    for part in (str(path), omniglot.TRAIN.sha256, file_checksum(path), f"{path.stat().st_size} bytes", "delete it"):
        assert part in message


def test_without_a_folder_the_cache_is_filled_once(fake_omniglot, monkeypatch):
    fetched = []

    def download(url, destination, *_, most):
        fetched.append(url)
        shutil.copy(fake_omniglot / "omniglot" / destination.name, destination)

    monkeypatch.setattr(archives, "_download", download)
    omniglot.prepare(None, print)
    train, _ = omniglot.read(None, print)
    assert len(train.images) == 9
    assert fetched == [omniglot.URL + omniglot.TRAIN.name, omniglot.URL + omniglot.TEST.name]


def no_download(*_, **__):
    raise AssertionError("nothing is downloaded into a given folder")


def refusal(folder):
    with pytest.raises(UserError) as caught:
        omniglot.prepare(folder, print)
    assert "\n" not in str(caught.value)
    return str(caught.value)
