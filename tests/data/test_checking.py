from dataclasses import replace

import pytest
from PIL import Image

from dmlbench.data import catalogue
from dmlbench.data.catalogue import dataset_info
from dmlbench.data.images import load_dataset
from dmlbench.data.ready import check, dataset_spec, sizes
from dmlbench.reporting.pictures import draw_contact_sheet
from tests.data.bad_images import BAD


def checked(folder):
    return check(dataset_info(f"birds={folder}"), None, print)


def test_a_sound_folder(folder):
    found = checked(folder)
    assert found.sound
    assert found.counts == (2, 2, 6, 6)
    assert found.published is None
    spec = dataset_spec(dataset_info(f"birds={folder}"), None, print)
    assert found.fingerprint == load_dataset(spec).fingerprint  # what every result carries


def test_bad_images_and_conversions(bad_folder):
    found = checked(bad_folder)
    assert not found.sound
    assert found.bad == BAD
    assert set(found.converted) == {"c/cmyk.jpg", "c/grey.jpg", "d/palette.png"}
    assert found.fingerprint == ""


def test_duplicates_across_the_split_by_content(folder):
    (folder / "d" / "copy.jpg").write_bytes((folder / "a" / "1.jpg").read_bytes())
    (folder / "b" / "own.jpg").write_bytes((folder / "a" / "2.jpg").read_bytes())  # on one side: none of its business
    found = checked(folder)
    assert found.duplicates == [("a/1.jpg", "d/copy.jpg")]
    assert found.sound


def test_unusable_files_are_no_duplicates(folder):
    for name in "ad":
        (folder / name / "empty.jpg").touch()
    assert checked(folder).duplicates == []


def test_classes_of_one_image(folder):
    (folder / "d" / "0.jpg").unlink()
    (folder / "d" / "1.jpg").unlink()
    found = checked(folder)
    assert found.lost_queries == 1
    assert found.sound
    (folder / "c" / "0.jpg").unlink()
    (folder / "c" / "1.jpg").unlink()
    assert not checked(folder).sound


def test_sets_in_memory(glyphs_drawn):
    found = check(dataset_info("glyphs"), None, print)
    assert found.sound
    assert found.counts == found.published == (100, 100, 2_000, 2_000)
    assert found.fingerprint == "06890bb9510470fd8235b8839139aec1b61f64a7373e9983dafec0861564956c"


def test_other_counts_than_published(fake_omniglot, monkeypatch):
    monkeypatch.setitem(
        catalogue.DATASETS, "omniglot-small", replace(catalogue.DATASETS["omniglot-small"], test_images=4)
    )
    assert not check(dataset_info("omniglot-small"), fake_omniglot, print).sound


def test_sizes(bad_folder, glyphs_drawn):
    train, test = sizes(dataset_info(f"x={bad_folder}").family.read(None, print), print).values()
    assert train == {"classes": 2, "images": 8, "images a class": "4", "width": "40", "height": "30"}
    assert test["images a class"] == "5 - 5 - 6"
    glyphs = sizes(dataset_info("glyphs").family.read(None, print), print)
    assert glyphs["test"] == {"classes": 100, "images": 2000, "images a class": "20", "width": "28", "height": "28"}


@pytest.mark.parametrize("name", ["folder", "glyphs"])
def test_contact_sheet(bad_folder, glyphs_drawn, tmp_path, name):
    sides = dataset_info(f"x={bad_folder}" if name == "folder" else name).family.read(None, print)
    draw_contact_sheet("Birds", sides, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
