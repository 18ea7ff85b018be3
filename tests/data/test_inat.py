import pytest

from dmlbench.data import inat
from dmlbench.data.catalogue import DATASETS
from dmlbench.errors import UserError
from tests.data.make_benchmark_tree import INAT_SIDES, make_inat


def test_the_official_lists(tmp_path):
    make_inat(tmp_path / "x", shrink=500)
    lines = []
    train, test = inat.read(tmp_path, lines.append)
    assert (len(train.class_names), len(test.class_names), len(train.paths), len(test.paths)) == (11, 4, 651, 272)
    assert train.class_names[:2] == ("Aves/10", "Aves/2")
    assert train.paths[0].startswith("train_val2018/Aves/10/")
    assert test.queries is None
    assert lines == []


def test_the_sizes_of_the_split_are_those_of_the_competition():
    """437,513 + 24,426 images of 8,142 species."""
    info = DATASETS["inat"]
    assert info.train_images + info.test_images == 437_513 + 24_426
    assert info.train_classes + info.test_classes == 8_142
    assert info.counts == tuple(INAT_SIDES[side][column] for column in (1, 2) for side in ("train", "test"))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such data folder; place train_val2018/"):
        inat.read(tmp_path / "absent", print)
    root = make_inat(tmp_path / "x", shrink=500)
    next((root / "train_val2018").rglob("test*.jpg")).unlink()
    with pytest.raises(UserError, match="inat: 1 of 923 listed images are not in"):
        inat.read(tmp_path, print)
    (root / "train_val2018").rename(root / "images")
    with pytest.raises(UserError, match="holds no train_val2018/"):
        inat.read(tmp_path, print)
    (root / "Inat_dataset_splits" / "Inaturalist_test_set1.txt").unlink()
    with pytest.raises(UserError, match=r"holds no Inaturalist_test_set1\.txt"):
        inat.read(tmp_path, print)


@pytest.mark.parametrize("line", ["train_val2018/Aves/1.jpg", "Aves/2/1.jpg", "train_val2018/../../etc"])
def test_lines_that_are_none(tmp_path, line):
    root = make_inat(tmp_path / "x", shrink=500)
    (root / "Inat_dataset_splits" / "Inaturalist_test_set1.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"test_set1\.txt: line 1: must be train_val2018/"):
        inat.read(tmp_path, print)
