import pytest

from dmlbench.data import sop
from dmlbench.data.catalogue import DATASETS
from dmlbench.errors import UserError
from tests.data.make_benchmark_tree import make_sop


@pytest.fixture
def small(tmp_path):
    """The published format with a two-hundredth of the products."""
    make_sop(tmp_path / "x", shrink=200)
    return tmp_path


def test_the_published_format(small):
    lines = []
    train, test = sop.read(small, lines.append)
    counts = len(train.class_names), len(test.class_names), len(train.paths), len(test.paths)
    assert counts == (56, 56, 297, 302)
    assert train.class_names[:2] == ("bicycle 1", "cabinet 2")
    assert test.class_names[0] == "bicycle 11319"
    assert train.paths[0] == "bicycle_final/111000000001_0.JPG"
    assert not set(train.class_names) & set(test.class_names)
    assert lines == []


@pytest.mark.slow
def test_the_published_size(tmp_path):
    make_sop(tmp_path)
    train, test = sop.read(tmp_path, print)
    counts = len(train.class_names), len(test.class_names), len(train.paths), len(test.paths)
    assert counts == DATASETS["sop"].counts == (11_318, 11_316, 59_551, 60_502)


def test_strays_and_missing_images(small):
    folder = next(small.rglob("chair_final"))
    (folder / "._x.JPG").touch()
    lines = []
    sop.read(small, lines.append)
    assert "1 other file below" in lines[0]
    min(folder.glob("1*.JPG")).unlink()
    with pytest.raises(UserError, match="sop: 1 of 599 listed images are not in"):
        sop.read(small, print)


@pytest.mark.parametrize("line", ["1 2 3", "a 2 3 chair_final/x.JPG", "1 2 3 x.JPG"])
def test_lists_that_are_none(small, line):
    path = next(small.rglob("Ebay_test.txt"))
    path.write_text("image_id class_id super_class_id path\n" + line)
    with pytest.raises(UserError, match=r"Ebay_test\.txt: line 2"):
        sop.read(small, print)
    path.write_text("id path\n")
    with pytest.raises(UserError, match=r"Ebay_test\.txt: line 1"):
        sop.read(small, print)
    path.write_text("image_id class_id super_class_id path\n")
    with pytest.raises(UserError, match=r"holds no images"):
        sop.read(small, print)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"holds no Stanford_Online_Products.*dmlbench data fetch sop"):
        sop.read(tmp_path, print)
