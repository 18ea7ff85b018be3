import pytest

from dmlbench.data import cars
from dmlbench.data.catalogue import DATASETS
from dmlbench.data.images import read_files
from dmlbench.errors import UserError
from tests.data.make_benchmark_tree import (
    make_cars_by_class,
    make_cars_by_class_and_side,
    make_cars_original,
    make_cars_split,
)

LAYOUTS = {
    "original": make_cars_original,
    "split": make_cars_split,
    "by number": lambda annotations, output: make_cars_by_class(annotations, output, by_name=False),
    "by class within train and test": make_cars_by_class_and_side,
    "by name": lambda annotations, output: make_cars_by_class(annotations, output, by_name=True),
}


@pytest.mark.slow  # each test that makes 16,185 files takes seconds
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_official_split(annotations, tmp_path, layout):
    LAYOUTS[layout](annotations, tmp_path / "deep" / "down")
    lines = []
    train, test = cars.read(tmp_path, lines.append)
    counts = len(train.class_names), len(test.class_names), len(train.paths), len(test.paths)
    assert counts == DATASETS["cars"].counts == (98, 98, 8_054, 8_131)
    assert train.class_names + test.class_names == cars.CLASS_NAMES
    assert lines == []
    assert train.labels.tolist() == sorted(train.labels.tolist())


@pytest.mark.slow
def test_layouts_of_the_same_images_are_the_same_dataset(annotations, tmp_path):
    """`split` and a layout with other names and another order: nothing that a number depends on may differ."""
    make_cars_split(annotations, tmp_path / "split")
    first = cars.read(tmp_path / "split", print)
    other = tmp_path / "other" / "cars"
    for side, start in zip(first, (1, 99), strict=True):
        for path, label in zip(side.paths, side.labels.tolist(), strict=True):
            folder = other / f"{label + start:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            reversed_name = path.replace("/", "_").removesuffix(".jpg")[::-1]
            (folder / f"{reversed_name}.jpg").write_bytes((side.root / path).read_bytes())
    second = cars.read(tmp_path / "other", print)
    digests = [[read_files(side)[1] for side in sides] for sides in (first, second)]
    assert digests[0] == digests[1]
    assert [side.labels.tolist() for side in first] == [side.labels.tolist() for side in second]
    assert first[0].paths != second[0].paths


@pytest.mark.slow
def test_experiments_beside_the_classes_do_not_hide_them(annotations, tmp_path):
    make_cars_by_class(annotations, tmp_path, by_name=False)
    for number in range(1, 25):
        (tmp_path / f"{number:02d}_experiment").mkdir()
    assert len(cars.read(tmp_path, print)[0].paths) == 8_054


def test_images_have_their_class(annotations, tmp_path):
    """Of the split release, where neither name nor folder tells the class."""
    make_cars_split(annotations, tmp_path)
    train, test = cars.read(tmp_path, print)
    official = {}
    for side in ("train", "test"):
        for line in (annotations / "Cars196" / f"{side}.txt").read_text().splitlines():
            file, label = line.split()
            official[f"cars_{side}/{file}"] = int(label)
    found = dict(zip(train.paths, train.labels + 1, strict=True)) | dict(zip(test.paths, test.labels + 99, strict=True))
    assert found == official


@pytest.mark.slow
def test_a_nested_copy_with_strays(annotations, tmp_path):
    make_cars_split(annotations, tmp_path)
    (tmp_path / "outer").mkdir()
    (tmp_path / "cars_train").rename(tmp_path / "outer" / "cars_train")
    (tmp_path / "outer").rename(tmp_path / "cars_train")
    (tmp_path / "cars_test" / "._00001.jpg").touch()
    lines = []
    train, _ = cars.read(tmp_path, lines.append)
    assert sum(path.startswith("cars_train/cars_train/") for path in train.paths) > 4_000
    assert len(lines) == 1
    assert "1 other file below" in lines[0]


def test_classes_within_train_and_test_are_joined(tmp_path):
    for side in ("train", "test"):
        for name in cars.CLASS_NAMES:
            image = tmp_path / "car_data" / side / name.replace("/", "-") / "1.jpg"
            image.parent.mkdir(parents=True)
            image.touch()
    (tmp_path / "car_data" / "train" / "notes.txt").touch()
    train, test = cars.read(tmp_path, print)
    assert train.class_names + test.class_names == cars.CLASS_NAMES
    name = cars.CLASS_NAMES[0]
    assert train.paths[:2] == (f"test/{name}/1.jpg", f"train/{name}/1.jpg")
    assert len(train.paths) == len(test.paths) == 196


def test_labels_of_the_test_half_are_needed(annotations, tmp_path):
    make_cars_split(annotations, tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(
        UserError, match=r"not cars_test_annos_withlabels\.mat; place .*md5 b0a2b23655a3edd16d84508592a98d10"
    ):
        cars.read(tmp_path, print)
    unlabelled = annotations / "Cars196" / "cars_test_annos.mat"
    (tmp_path / "cars_test_annos_withlabels.mat").write_bytes(unlabelled.read_bytes())
    with pytest.raises(UserError, match="not the annotations of Cars196"):
        cars.read(tmp_path, print)


def test_nothing_there_says_what_to_place(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            UserError, match=r"links are dead; place car_ims/.*cars_train/.*cars/<001\.\.196 or"
        ) as caught:
            cars.read(folder, print)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_class_folder_missing_is_named(annotations, tmp_path):
    make_cars_by_class(annotations, tmp_path, by_name=False)
    folder = tmp_path / "cars" / "007"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(UserError, match="holds 195 of 196 class folders of Cars196; missing: Acura"):
        cars.read(tmp_path, print)
    with pytest.raises(UserError, match="holds 195 of 196"):
        cars.read(tmp_path / "cars", print)


@pytest.mark.parametrize(
    ("name", "number"),
    [("001", 1), ("001.AM_General", 1), ("196", 196), ("197", None), ("000", None), ("1234", None), ("x", None),
     ("Ram C-V Cargo Van Minivan 2012", 174), ("ram_c_v_cargo_van_minivan_2012", 174),
     ("smart fortwo Convertible 2012", 196)],
)  # fmt: skip
def test_class_numbers(name, number):
    if number == 174:
        assert cars.CLASS_NAMES[number - 1] == "Ram C/V Cargo Van Minivan 2012"
    assert cars._class_number(name) == number
