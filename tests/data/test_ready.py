from dataclasses import replace

import pytest

from dmlbench.data.catalogue import DATASETS, dataset_info
from dmlbench.data.images import load_dataset
from dmlbench.data.ready import dataset_spec, not_ready, prepare
from dmlbench.errors import UserError
from tests.data.bad_images import BAD
from tests.data.make_benchmark_tree import make_sop


def spec_of(folder, **options):
    return dataset_spec(dataset_info(f"birds={folder}"), None, print, **options)


def test_the_version_of_a_folder_is_its_contents(folder, tmp_path):
    spec = spec_of(folder)
    assert len(spec.version) == 12
    moved = folder.rename(tmp_path / "elsewhere")
    assert spec_of(moved).version == spec.version
    assert spec_of(moved).identity() == spec.identity()
    (moved / "a" / "0.jpg").write_bytes((moved / "b" / "0.jpg").read_bytes())
    assert spec_of(moved).version != spec.version


def test_the_split_is_part_of_the_version(folder, tmp_path):
    (tmp_path / "birds.yaml").write_text("name: birds\nroot: images\nsplit: {train: [a, c], test: [b, d]}")
    other = dataset_spec(dataset_info(str(tmp_path / "birds.yaml")), None, print)
    assert other.version != spec_of(folder).version
    assert load_dataset(other).train.class_names == ("a", "c")


def test_a_run_refuses_bad_images_with_the_list(bad_folder):
    with pytest.raises(UserError, match="birds: 4 of 19 images cannot be used") as caught:
        prepare(spec_of(bad_folder), None, print)
    message = str(caught.value)
    assert all(f"{path} ({why})" in message for path, why in BAD.items())
    assert "--skip-bad" in message
    assert "\n" not in message


def test_long_lists_are_cut(folder):
    for number in range(14):
        (folder / "a" / f"bad{number}.jpg").touch()
    with pytest.raises(UserError, match="and 4 more"):
        prepare(spec_of(folder), None, print)


def test_skipped_images_are_left_out_and_recorded(bad_folder):
    whole, spec = spec_of(bad_folder), spec_of(bad_folder, skip_bad=True)
    assert set(spec.skipped) == set(BAD)
    assert spec.version != whole.version
    prepare(spec, None, print)
    dataset = load_dataset(spec)
    assert (len(dataset.train.images), len(dataset.test.images)) == (6, 9)
    assert dataset.fingerprint.startswith(spec.version)
    assert all(dataset.test.images[index].shape == (3, 30, 40) for index in range(9))


def test_skipping_nothing_changes_nothing(folder):
    assert spec_of(folder, skip_bad=True) == spec_of(folder)


def test_a_class_without_a_sound_image_goes(folder):
    for path in (folder / "a").iterdir():
        path.write_bytes(b"")
    write_jpeg_class(folder, "e")
    write_jpeg_class(folder, "f")
    spec = spec_of(folder, skip_bad=True)
    prepare(spec, None, print)
    dataset = load_dataset(spec)
    assert dataset.train.class_names == ("b", "c")
    assert dataset.train.labels.unique().tolist() == [0, 1]


def test_what_skipping_leaves_must_be_enough(folder):
    for path in (folder / "a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="leaves 1 classes to train and 2 to test, and each side needs two"):
        prepare(spec_of(folder, skip_bad=True), None, print)


def test_some_test_class_needs_two_images(folder):
    for name in "cd":
        (folder / name / "0.jpg").unlink()
        (folder / name / "1.jpg").unlink()
    with pytest.raises(UserError, match="no test class has two images"):
        prepare(spec_of(folder), None, print)


def test_a_run_tells_of_what_it_skips_and_of_duplicates(bad_folder):
    (bad_folder / "d" / "copy.jpg").write_bytes((bad_folder / "a" / "1.jpg").read_bytes())
    lines = []
    prepare(spec_of(bad_folder, skip_bad=True), None, lines.append)
    assert "birds: 4 unusable images are left out (a/truncated.jpg, b/empty.jpg, d/dot.jpg, ...)" in lines
    assert "birds: 1 image is in train and in test alike (a/1.jpg, d/copy.jpg)" in lines


def test_what_a_dry_run_says(products, folder):
    spec = dataset_spec(dataset_info("sop"), products, print)
    assert not_ready(spec, products) == ""
    assert "holds no Stanford_Online_Products" in not_ready(spec, folder)
    assert not_ready(spec_of(folder), None) == ""


def write_jpeg_class(folder, name):
    (folder / name).mkdir()
    (folder / name / "0.jpg").write_bytes((folder / "b" / "0.jpg").read_bytes())


def test_images_that_change_under_a_run(folder):
    spec = spec_of(folder)
    (folder / "a" / "0.jpg").write_bytes((folder / "b" / "0.jpg").read_bytes())
    with pytest.raises(UserError, match="other images than version"):
        load_dataset(spec)


@pytest.fixture
def products(tmp_path, monkeypatch):
    """A data folder with a small `sop`, known to the package as the published one."""
    make_sop(tmp_path, shrink=200)
    counts = {"train_classes": 56, "test_classes": 56, "train_images": 297, "test_images": 302}
    monkeypatch.setitem(DATASETS, "sop", replace(DATASETS["sop"], **counts))
    return tmp_path


def test_skipping_changes_the_version_of_a_published_set(products):
    info = dataset_info("sop")
    whole = dataset_spec(info, products, print)
    assert whole.version == info.version
    assert dataset_spec(info, products, print, skip_bad=True) == whole
    prepare(whole, products, print)
    bad = min(products.rglob("*.JPG"))
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=f"sop: 1 of 599 images cannot be used: .*{bad.name}"):
        prepare(whole, products, print)
    spec = dataset_spec(info, products, print, skip_bad=True)
    assert spec.version.startswith(f"{info.version}-without-")
    prepare(spec, products, print)
    dataset = load_dataset(spec, products)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 598


def test_an_incomplete_release_is_refused_before_any_cell(products, monkeypatch):
    monkeypatch.setitem(DATASETS, "sop", replace(DATASETS["sop"], test_images=303))
    spec = dataset_spec(dataset_info("sop"), products, print)
    for refuse in (prepare, load_dataset):
        with pytest.raises(UserError, match=r"sop: expected \(56, 56, 297, 303\) .*found \(56, 56, 297, 302\)"):
            refuse(spec, products, print)
