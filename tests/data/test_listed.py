"""Images of the user's own that a CSV file lists, and folders that split their classes themselves."""

import shutil

import numpy as np
import pytest

from dmlbench.data.catalogue import dataset_info, family_of
from dmlbench.data.folder import ImageFolder
from dmlbench.data.images import load_dataset
from dmlbench.data.listed import ListedImages
from dmlbench.data.ready import check, check_exchangeable, dataset_spec, prepare, sizes
from dmlbench.errors import UserError
from dmlbench.specs.dataset import DatasetSpec, Fold, FolderSplit


def write_csv(path, rows, header="path,label,split"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def listed(folder, tmp_path):
    """Classes a and b train; c and d have two queries and one gallery image each."""
    roles = {
        "a": ["train"] * 3,
        "b": ["train"] * 3,
        "c": ["query", "gallery", "query"],
        "d": ["gallery", "query", "query"],
    }
    rows = [(f"images/{name}/{index}.jpg", name, role) for name in "dcba" for index, role in enumerate(roles[name])]
    return write_csv(tmp_path / "birds.csv", rows)


def as_folders(listed, root):
    """The same images as folders of roles."""
    for row in listed.read_text().splitlines()[1:]:
        path, label, role = row.split(",")
        target = root / role / label
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(listed.parent / path, target)
    return root


def spec_of(text):
    return dataset_spec(dataset_info(text), None, print)


def test_queries_and_gallery_of_a_csv(listed):
    train, test = ListedImages("birds", listed).read(None, print)
    assert train.class_names == ("a", "b")
    assert test.class_names == ("c", "d")
    assert test.paths == tuple(f"images/{name}/{index}.jpg" for name in "cd" for index in range(3))
    assert test.queries.tolist() == [True, False, True, False, True, True]
    assert train.queries is None


def test_train_and_test_of_a_csv_with_other_columns_and_a_mark_of_order(listed, tmp_path):
    rows = [row.split(",") for row in listed.read_text().splitlines()[1:]]
    told = ["train" if role == "train" else "test" for _, _, role in rows]
    text = "\ufeffsplit, label ,path,size\n".replace(" label ", "label")
    lines = [f"{role},{label},{path},7" for role, (path, label, _) in zip(told, rows, strict=True)]
    (tmp_path / "other.csv").write_text(text + "\n".join(lines), encoding="utf-8")
    train, test = ListedImages("birds", tmp_path / "other.csv").read(None, print)
    assert (len(train.paths), len(test.paths), test.queries) == (6, 6, None)


def test_a_csv_and_folders_of_the_same_roles_are_the_same_dataset(listed, tmp_path):
    """A version is of contents and roles; a csv and folders with them give the same, a change of one role another."""
    root = as_folders(listed, tmp_path / "birds")
    specs = [spec_of(f"birds={listed}"), spec_of(f"birds={root}")]
    assert specs[0].identity() == specs[1].identity()
    datasets = [load_dataset(spec) for spec in specs]
    assert datasets[0].fingerprint == datasets[1].fingerprint
    assert datasets[0].test.queries.tolist() == datasets[1].test.queries.tolist()
    listed.write_text(listed.read_text().replace("images/c/1.jpg,c,gallery", "images/c/1.jpg,c,query"))
    assert spec_of(f"birds={listed}").version != specs[0].version


def test_roles_paths_and_images_stay_together_when_loaded(listed):
    """Images are ordered by content: their paths and roles are, too."""
    test = load_dataset(spec_of(f"birds={listed}")).test
    roles = dict(line.split(",")[::2] for line in listed.read_text().splitlines()[1:])
    assert [roles[path] == "query" for path in test.paths] == test.queries.tolist()
    for index, path in enumerate(test.paths):
        own = ListedImages("x", listed).read(None, print)[1]
        assert path in own.paths
        alone = load_one(listed.parent / path)
        assert np.array_equal(test.images[index].numpy(), alone)


def load_one(path):
    import torch  # noqa: PLC0415

    from dmlbench.data.images import decode  # noqa: PLC0415

    return decode(torch.from_numpy(np.fromfile(path, dtype=np.uint8))).numpy()


def test_without_roles_a_folders_version_is_what_it_was(folder):
    """The digest of what has no roles must not change: it is in the hashes of results."""
    digest = dataset_spec(dataset_info(f"x={folder}"), None, print).version
    contents = ImageFolder("x", folder).read(None, print)
    import hashlib  # noqa: PLC0415

    expected = hashlib.sha256()
    for side in contents:
        expected.update(f"{len(side.paths)}\n".encode())
        rows = [(int(label), hashlib.sha256((side.root / path).read_bytes()).hexdigest())
                for path, label in zip(side.paths, side.labels, strict=True)]  # fmt: skip
        for label, content in sorted(rows):
            expected.update(f"{label} {content}\n".encode())
    assert digest == expected.hexdigest()[:12]


def test_folds_of_the_training_classes_have_no_gallery_of_their_own(listed, tmp_path):
    rows = listed.read_text().splitlines()[1:]
    more = [f"images/{name}/{index}.jpg,{name},train" for name in "ef" for index in range(3)]
    for name, source in zip("ef", "ab", strict=True):
        shutil.copytree(tmp_path / "images" / source, tmp_path / "images" / name)
    listed.write_text("path,label,split\n" + "\n".join(rows + more))
    spec = spec_of(f"birds={listed}").model_copy(update={"fold": Fold(number=0, folds=2)})
    dataset = load_dataset(spec)
    assert dataset.test.queries is None
    assert len(dataset.test.labels) == 6
    with pytest.raises(UserError, match=r"training\.vary=split: birds tests queries on a gallery"):
        check_exchangeable(spec, None)


def test_images_left_out_keep_the_roles_of_the_others(listed):
    (listed.parent / "images" / "c" / "0.jpg").write_bytes(b"")
    spec = dataset_spec(dataset_info(f"birds={listed}"), None, print, skip_bad=True)
    assert spec.skipped == ("images/c/0.jpg",)
    prepare(spec, None, print)
    assert load_dataset(spec).test.queries.sum() == 3


def test_checks_and_sizes_know_the_roles(listed):
    info = dataset_info(f"birds={listed}")
    found = check(info, None, print)
    assert (found.roles, found.lost_queries, found.sound) == ((4, 2), 0, True)
    rows = sizes(info.family.read(None, print), print)
    assert [(name, row["images"], row["classes"]) for name, row in rows.items()] == [
        ("train", 6, 2), ("test", 6, 2), ("query", 4, 2), ("gallery", 2, 2),
    ]  # fmt: skip
    listed.write_text(listed.read_text().replace("images/c/1.jpg,c,gallery", "images/c/1.jpg,x,gallery"))
    assert check(info, None, print).lost_queries == 2
    listed.write_text(listed.read_text().replace("images/d/0.jpg,d,gallery", "images/d/0.jpg,x,gallery"))
    assert check(info, None, print).problem.startswith("no query's class is in the gallery")


def test_a_spec_finds_its_family_again(listed, tmp_path):
    spec = DatasetSpec.model_validate(spec_of(f"birds={listed}").model_dump(mode="json"))
    assert family_of(spec) == ListedImages("birds", listed)
    assert spec.typed == "birds=FILE.csv"
    file = tmp_path / "birds.yaml"
    file.write_text("name: birds\nroot: birds.csv\ndefault_protocol: mobilenetv1-112\n")
    assert spec_of(str(file)).version == spec.version
    assert dataset_info(str(file)).default_protocol == "mobilenetv1-112"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,label", "file,label", "line 1: has no column 'path', but 'file', 'label', 'split'"),
        (
            "images/a/0.jpg,a,train",
            "images/a/0.jpg,a,val",
            "split must be one of train, test, query, gallery, not 'val'",
        ),
        ("images/a/0.jpg,a,train", ",a,train", "has no path"),
        ("images/a/0.jpg,a,train", "images/a/0.jpg,,train", "has no label"),
        ("images/a/0.jpg,a,train", "images/a/0.jpg", "has no label"),
        ("images/a/0.jpg,a,train", "images/a/1.jpg,a,train", "lists 'images/a/1.jpg' 2 times"),
        ("images/a/0.jpg,a,train", "images/a/absent.jpg,a,train", r"1 of 12 listed images is not in .*absent\.jpg"),
        ("images/a/0.jpg,a,train", "/images/a/0.jpg,a,train", "must be a path from the CSV's folder"),
        ("images/a/0.jpg,a,train", "C:/images/a/0.jpg,a,train", "must be a path from the CSV's folder"),
        ("images/a/0.jpg,a,train", "images/a/0.jpg,a,test", "has test next to query or gallery"),
        ("images/a/0.jpg,a,train", "images/a/0.jpg,c,train", r"1 class of .* are tested as well \(c\); a class either"),
        (",gallery", ",query", "split: has no gallery"),
        (",query", ",gallery", "split: has no query"),
        (",b,train", ",a,train", "lists 1 classes to train and 2 to test"),
        (",train", ",query", r"birds\.csv: split: has no train; a row an image"),
        (",query", ",train", "split: has no query"),
        ("images/a/0.jpg,a,train", "images/./a//1.jpg,a,train", r"lists 'images/a/1\.jpg' 2 times"),
        ("images/a/0.jpg,a,train", "images/b/../a/1.jpg,a,train", r"lists 'images/a/1\.jpg' 2 times"),
        ("images/a/0.jpg,a,train", "../images/a/0.jpg,a,train", r"'\.\./images/a/0\.jpg' leaves the CSV's folder"),
    ],
)
def test_files_that_are_none(listed, old, new, message):
    listed.write_text(listed.read_text().replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        ListedImages("birds", listed).read(None, print)
    assert "\n" not in str(caught.value)


def test_a_csv_of_training_images_alone_is_named(listed):
    rows = [row for row in listed.read_text().splitlines() if row.endswith((",train", "split"))]
    listed.write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"birds\.csv: split: has no test, and no query and gallery; a row an image"):
        ListedImages("birds", listed).read(None, print)


@pytest.mark.parametrize(("layout", "extra"), [(("train", "query", "gallery"), "test"), (("train", "test"), "val")])
def test_another_folder_of_classes_next_to_a_layout_is_refused(listed, tmp_path, layout, extra):
    """Nobody would learn that it takes no part."""
    root = as_folders(listed, tmp_path / "birds")
    if "test" in layout:
        (root / "query").rename(root / "test")
        shutil.rmtree(root / "gallery")
    (root / extra).mkdir()
    ImageFolder("birds", root).read(None, print)  # an empty one has nothing to lose
    shutil.copytree(root / layout[1] / "c", root / extra / "e")
    expected = (
        rf"birds: .*birds: has images of classes in {extra}/ next to {', '.join(f'{name}/' for name in layout)}; "
    )
    with pytest.raises(UserError, match=expected) as caught:
        ImageFolder("birds", root).read(None, print)
    assert "\n" not in str(caught.value)


def test_an_image_that_is_query_and_gallery_is_named(listed):
    """The same file under both roles is found at once, and makes every method look better."""
    folder = listed.parent / "images" / "c"
    shutil.copy(folder / "1.jpg", folder / "0.jpg")
    lines = []
    prepare(spec_of(f"birds={listed}"), None, lines.append)
    assert "birds: 1 image is in query and in gallery alike (images/c/0.jpg, images/c/1.jpg)" in lines
    found = check(dataset_info(f"birds={listed}"), None, print)
    assert found.in_both_roles == (("images/c/0.jpg", "images/c/1.jpg"),)
    assert found.sound


def test_no_csv_at_all(listed, tmp_path):
    with pytest.raises(UserError, match=r"birds: .*absent\.csv: no such file; a CSV has a row an image"):
        spec_of(f"birds={tmp_path / 'absent.csv'}")
    with pytest.raises(UserError, match=r"a CSV file needs a name; birds="):
        spec_of(str(listed))
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        spec_of(f"birds={listed}")
    listed.write_text("")
    with pytest.raises(UserError, match="has no column 'path', but nothing"):
        spec_of(f"birds={listed}")
    file = tmp_path / "birds.yaml"
    file.write_text("name: birds\nroot: birds.csv\nsplit: {train: 2}\n")
    with pytest.raises(UserError, match="says itself which images train; leave split out"):
        spec_of(str(file))


class TestFoldersOfRoles:
    def test_query_and_gallery(self, listed, tmp_path):
        root = as_folders(listed, tmp_path / "birds")
        (root / "notes.txt").touch()
        lines = []
        train, test = ImageFolder("birds", root).read(None, lines.append)
        assert train.paths[0] == "train/a/0.jpg"
        assert test.paths[:3] == ("query/c/0.jpg", "query/c/2.jpg", "gallery/c/1.jpg")
        assert test.queries.tolist() == [True, True, False] * 2
        assert lines == [f"birds: 1 other file below {root} is ignored (notes.txt)"]

    def test_train_and_test(self, listed, tmp_path):
        root = as_folders(listed, tmp_path / "birds")
        shutil.move(root / "query", root / "test")
        shutil.rmtree(root / "gallery")
        train, test = ImageFolder("birds", root).read(None, print)
        assert (train.class_names, test.class_names, test.queries) == (("a", "b"), ("c", "d"), None)

    def test_classes_of_these_names_stay_classes(self, folder, tmp_path):
        for old, new in zip("abcd", ("train", "query", "gallery", "test"), strict=True):
            (folder / old).rename(folder / new)
        train, test = ImageFolder("birds", folder).read(None, print)
        assert train.class_names + test.class_names == ("gallery", "query", "test", "train")

    def test_a_class_on_both_sides(self, listed, tmp_path):
        root = as_folders(listed, tmp_path / "birds")
        shutil.copytree(root / "train" / "a", root / "query" / "a")
        with pytest.raises(UserError, match=r"1 class of .* in train are tested as well \(a\)"):
            ImageFolder("birds", root).read(None, print)

    def test_another_split_is_refused(self, listed, tmp_path):
        root = as_folders(listed, tmp_path / "birds")
        with pytest.raises(UserError, match="has its own, train/, query/, gallery/; leave split out"):
            ImageFolder("birds", root, FolderSplit(train=1)).read(None, print)
