import shutil
import unicodedata
from dataclasses import replace

import pytest

from dmlbench.data.catalogue import dataset_info
from dmlbench.data.folder import ImageFolder, declared
from dmlbench.data.ready import dataset_spec
from dmlbench.errors import UserError
from dmlbench.specs.dataset import FolderSplit


def read(root, **split):
    return ImageFolder("birds", root, FolderSplit(**split)).read(None, print)


def test_half_of_the_sorted_classes_train(folder):
    train, test = read(folder)
    assert train.class_names == ("a", "b")
    assert test.class_names == ("c", "d")
    assert train.paths == ("a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg")
    assert test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_declared_splits(folder):
    (folder / "e").mkdir()
    (folder / "e" / "0.png").touch()
    assert read(folder)[0].class_names == ("a", "b")
    assert read(folder, train=3)[0].class_names == ("a", "b", "c")
    train, test = read(folder, train=("d", "a"), test=("b", "c"))
    assert train.class_names == ("d", "a")
    assert test.class_names == ("b", "c")


def test_strays_are_ignored_with_a_count(folder):
    for stray in ("._0.jpg", "a/._0.jpg", "a/notes.txt", "b/deeper/0.jpg", "top.jpg", ".hidden/0.jpg"):
        (folder / stray).parent.mkdir(exist_ok=True)
        (folder / stray).touch()
    lines = []
    train, test = ImageFolder("birds", folder).read(None, lines.append)
    assert len(train.paths) == len(test.paths) == 6
    assert len(lines) == 1
    assert lines[0].startswith("birds: 6 other files below")


@pytest.mark.parametrize("split", [{}, {"train": 1}, {"train": 3}, {"train": 9}, {"train": ("a",), "test": ("b", "c")}])
def test_sides_of_one_class_are_none(folder, split):
    for path in (folder / "d").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="each side needs two"):
        read(folder, **split)


def test_a_class_that_is_not_there(folder):
    with pytest.raises(UserError, match="unknown class 'A'; did you mean 'a'"):
        read(folder, train=("A", "b"), test=("c", "d"))
    with pytest.raises(UserError, match="no such folder"):
        read(folder / "absent")


def test_classes_without_images_are_named(folder):
    (folder / "empty").mkdir()
    (folder / "odd").mkdir()
    (folder / "odd" / "0.raw").touch()
    lines = []
    ImageFolder("birds", folder).read(None, lines.append)
    assert lines[1] == f"birds: 2 folders of {folder} hold no images and are no classes (empty, odd)"


def test_links_to_class_folders_are_classes(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in "abcd":
        (linked / name).symlink_to(folder / name)
    (linked / "d" / "loop").symlink_to(linked)
    assert read(linked)[1].paths == read(folder)[1].paths


def test_a_folder_that_cannot_be_read_is_an_error(folder, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied", str(folder / "a"))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(UserError, match=r"birds: .*/a: cannot be read \(Permission denied\)"):
        read(folder)


@pytest.mark.parametrize("split", [{"train": ["a"]}, {"test": ["a"]}, {"train": 2, "test": ["a"]},
                                   {"train": ["a", "b"], "test": ["b"]}, {"train": 0},
                                   {"train": ["a", "a"], "test": ["b", "c"]}, {"train": True},
                                   {"train": 0.5}])  # fmt: skip
def test_splits_that_are_none(split):
    with pytest.raises(ValueError, match=r"train|test|number"):
        FolderSplit(**split)


class TestDeclared:
    def test_a_name_of_the_catalogue_declares_nothing(self):
        assert declared("cub") is None

    def test_name_and_path(self):
        folder, protocol = declared("birds=some/a=b/images")
        assert (folder.name, str(folder.root), protocol) == ("birds", "some/a=b/images", "resnet50-128")

    def test_a_yaml(self, tmp_path, folder):
        file = tmp_path / "birds.yaml"
        text = "name: birds\nroot: images\nsplit: {train: [a, b], test: [c, d]}\ndefault_protocol: mobilenetv1-112\n"
        file.write_text(text)
        own, protocol = declared(str(file))
        assert own.root == folder
        assert protocol == "mobilenetv1-112"
        assert own.read(None, print)[1].class_names == ("c", "d")
        assert dataset_info(str(file)).default_protocol == "mobilenetv1-112"

    @pytest.mark.parametrize(
        ("text", "message"),
        [("name: birds", "root"), ("name: a b\nroot: x", "name"),
         ("name: a\nroot: x\nsplt: {}", "did you mean 'split'"),
         ("name: a\nroot: x\nsplit: {train: [a]}", "go together"),
         ("name: a\nroot: x\nsplit: {train: [1, 2], test: [3, 4]}", "put numbers in quotes"), ("- 1", "mapping")],
    )  # fmt: skip
    def test_yamls_that_are_none(self, tmp_path, text, message):
        file = tmp_path / "birds.yaml"
        file.write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            declared(str(file))
        assert str(file) in str(caught.value)

    @pytest.mark.parametrize("text", ["=path", "birds=", "a b=path", ".x=path"])
    def test_texts_that_are_none(self, text):
        with pytest.raises(UserError, match="must be NAME=FOLDER"):
            declared(text)

    def test_a_folder_without_a_name(self, folder):
        with pytest.raises(UserError, match="a folder needs a name; images="):
            dataset_info(str(folder))

    def test_no_such_yaml(self):
        with pytest.raises(UserError, match="no such file"):
            declared("absent.yaml")

    def test_names_of_the_catalogue_are_taken(self, folder):
        with pytest.raises(UserError, match="'cub' is a dataset of the catalogue"):
            dataset_info(f"cub={folder}")


@pytest.fixture
def fruit(folder, tmp_path):
    """The images of four classes twice, under names whose accents are one sign (NFC) or two (NFD)."""

    def copy(form: str):
        root = tmp_path / form
        for name, source in zip(("Ähre", "Apfel", "Öl", "Rose"), "abcd", strict=True):
            shutil.copytree(folder / source, root / unicodedata.normalize(form, name))
        return ImageFolder("fruit", root)

    return copy


def test_a_copy_by_a_mac_is_the_same_dataset(fruit):
    one, other = fruit("NFC"), fruit("NFD")
    assert [side.class_names for side in other.read(None, print)] == [("Apfel", "Rose"), ("Ähre", "Öl")]
    specs = [dataset_spec(dataset_info(f"fruit={family.root}"), None, print) for family in (one, other)]
    assert specs[0].version == specs[1].version
    for family in (one, other):
        assert all((side.root / path).is_file() for side in family.read(None, print) for path in side.paths)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_split_names_classes_in_either_way(fruit, form):
    names = [unicodedata.normalize(form, name) for name in ("Ähre", "Öl")]
    train, _ = replace(fruit("NFD"), split=FolderSplit(train=tuple(names), test=("Apfel", "Rose"))).read(None, print)
    assert train.class_names == ("Ähre", "Öl")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_image_left_out_is_left_out_of_either_copy(fruit, form):
    skipped = frozenset((f"{unicodedata.normalize(form, 'Ähre')}/0.jpg",))
    _, test = fruit("NFD").read(None, print)
    assert len(test.without(skipped).paths) == len(test.paths) - 1


def test_two_folders_of_one_name_are_no_one_class(fruit):
    family = fruit("NFC")
    (family.root / unicodedata.normalize("NFD", "Öl")).mkdir()
    with pytest.raises(UserError, match="two folders are called 'Öl'"):
        family.read(None, print)
