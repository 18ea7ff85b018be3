import pytest

from dmlbench.data import cub
from dmlbench.data.catalogue import DATASETS
from dmlbench.data.ready import files_of
from dmlbench.errors import UserError
from tests.data.make_benchmark_tree import make_cub, small_jpeg


@pytest.fixture
def small(tmp_path):
    """A release of four classes around the border of the split, three folders down, with its files out of order."""
    root = tmp_path / "data" / "benchmarks" / "birds" / "CUB_200_2011"
    images = {1: (2, "100.B/b2.jpg", 100), 2: (1, "100.B/b1.jpg", 100), 3: (3, "001.A/a.jpg", 1),
              4: (4, "101.C/c.jpg", 101),
              5: (5, "200.D/d.jpg", 200)}  # fmt: skip
    for number, path, _ in images.values():
        (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / path).write_bytes(small_jpeg(number))
    (root / "images.txt").write_text("".join(f"{n} {path}\n" for n, path, _ in images.values()))
    (root / "image_class_labels.txt").write_text("".join(f"{n} {label}\n" for n, _, label in images.values()))
    return tmp_path / "data"


def test_the_official_split(annotations, tmp_path):
    make_cub(annotations, tmp_path)
    train, test = cub.read(tmp_path, print)
    counts = len(train.class_names), len(test.class_names), len(train.paths), len(test.paths)
    assert counts == DATASETS["cub"].counts == (100, 100, 5_864, 5_924)
    assert train.class_names[0] == "001.Black_footed_Albatross"
    assert test.class_names[-1] == "200.Common_Yellowthroat"
    assert not set(train.paths) & set(test.paths)


def test_split_and_order(small):
    train, test = cub.read(small, print)
    assert train.class_names == ("001.A", "100.B")
    assert test.class_names == ("101.C", "200.D")
    assert train.paths == ("images/001.A/a.jpg", "images/100.B/b1.jpg", "images/100.B/b2.jpg")
    assert train.labels.tolist() == [0, 1, 1]
    assert test.labels.tolist() == [0, 1]
    assert files_of((train, test)) is not None
    assert all((train.root / path).is_file() for path in train.paths)


def test_strays_are_ignored_with_a_count(small):
    images = next(small.glob("*/*/*/images"))
    (images / "001.A" / "._a.jpg").write_bytes(b"")
    (images / "Thumbs.db").write_bytes(b"")
    lines = []
    train, _ = cub.read(small, lines.append)
    assert len(train.paths) == 3
    assert lines == [f"cub: 2 other files below {images.parent} are ignored (images/001.A/._a.jpg, images/Thumbs.db)"]


def test_missing_images(small):
    next(small.rglob("b2.jpg")).unlink()
    with pytest.raises(UserError, match=r"cub: 1 of 5 listed images are not in .*b2\.jpg.*extract it again"):
        cub.read(small, print)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"holds no CUB_200_2011.*dmlbench data fetch cub"):
        cub.read(tmp_path, print)
    with pytest.raises(UserError, match="no such data folder"):
        cub.read(tmp_path / "absent", print)


@pytest.mark.parametrize(("line", "file"), [("x y", "image_class_labels.txt"), ("1", "images.txt"), ("", "images.txt")])
def test_lists_that_are_none(small, line, file):
    path = next(small.rglob(file))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=f"{file}: line 6"):
        cub.read(small, print)


def test_lists_that_disagree(small):
    path = next(small.rglob("images.txt"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="list different images"):
        cub.read(small, print)
