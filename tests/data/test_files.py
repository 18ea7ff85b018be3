import pickle

import numpy as np
import pytest
import torch

from dmlbench.data import images
from dmlbench.data.family import cache_dir
from dmlbench.data.folder import ImageFolder
from dmlbench.data.images import DecodedImages, decoded, read_files
from dmlbench.errors import UserError


@pytest.fixture
def train(folder):
    return ImageFolder("x", folder).read(None, print)[0]


def equal(first, second):
    return len(first) == len(second) and all(torch.equal(first[i], second[i]) for i in range(len(first)))


def test_in_memory_or_from_disk(train, monkeypatch):
    encoded, digests, _ = read_files(train)
    assert encoded.content is not None
    assert encoded.content.numel() == sum((train.root / path).stat().st_size for path in train.paths)
    monkeypatch.setattr(images, "IN_MEMORY_BYTES", 10)
    from_disk, same, _ = read_files(train)
    assert from_disk.content is None
    assert same == digests
    assert equal(encoded, from_disk)
    assert encoded[0].shape == (3, 30, 40)


def test_the_decoded_cache_holds_the_same_pixels(train):
    encoded, *_ = read_files(train)
    lines = []
    first = decoded(encoded, "key", lines.append)
    again = decoded(encoded, "key", lines.append)
    assert isinstance(first, DecodedImages)
    assert equal(first, encoded)
    assert equal(again, encoded)
    assert first[1].stride() == encoded[1].stride()
    assert len(lines) == 1
    assert "decoding 6 images" in lines[0]
    assert {path.name for path in (cache_dir() / "decoded").iterdir()} == {"key", "key.lock"}


def test_images_of_different_sizes(bad_folder):
    sound = ImageFolder("x", bad_folder).read(None, print)[1].without(frozenset(("d/dot.jpg", "d/page.jpg")))
    encoded, *_ = read_files(sound)
    assert equal(decoded(encoded, "key", print), encoded)


def test_what_is_written_to_a_decoded_image_stays_private(train):
    encoded, *_ = read_files(train)
    decoded(encoded, "key", print)[0].zero_()
    assert equal(decoded(encoded, "key", print), encoded)


@pytest.mark.parametrize(("limit", "value"), [("DECODED_BYTES", 6 * 3600 - 1), ("DECODED_BYTES", 100)])
def test_large_ones_are_not_decoded_ahead(train, monkeypatch, limit, value):
    monkeypatch.setattr(images, limit, value)
    encoded, *_ = read_files(train)
    assert decoded(encoded, "key", print) is encoded
    assert not (cache_dir() / "decoded" / "key").exists()


def test_nor_where_the_disk_is_nearly_full(train, monkeypatch):
    monkeypatch.setattr(images.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 4 * 6 * 3600 - 4})())
    encoded, *_ = read_files(train)
    assert decoded(encoded, "key", print) is encoded


def test_a_cache_that_cannot_be_made_is_done_without(train, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "_write", full)
    encoded, *_ = read_files(train)
    lines = []
    assert decoded(encoded, "key", lines.append) is encoded
    assert "No space left" in lines[-1]
    assert list((cache_dir() / "decoded").glob("*.part")) == []


def test_a_cache_of_other_images_is_not_used(train):
    encoded, *_ = read_files(train)
    decoded(encoded, "key", print)
    (cache_dir() / "decoded" / "key" / "pixels.bin").write_bytes(b"123")
    lines = []
    assert decoded(encoded, "key", lines.append) is encoded
    assert "delete it" in lines[0]


def test_the_files_of_some_classes(train):
    encoded, *_ = read_files(train)
    split = images.Split(encoded, torch.from_numpy(train.labels), train.class_names, train.paths)
    some = images._select(split, np.array([1]))
    assert len(some.images) == 3
    assert torch.equal(some.images[1], encoded[4])
    assert some.paths == train.paths[3:]


def test_an_image_that_cannot_be_decoded_is_named(train, folder):
    (folder / "a" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    encoded, *_ = read_files(train)
    with pytest.raises(UserError, match=r"a/0\.jpg: cannot be decoded .*--skip-bad"):
        [encoded[index] for index in range(3)]


def test_a_file_that_is_gone_is_named(train, folder):
    (folder / "a" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"a/0\.jpg: cannot be read"):
        read_files(train)


def test_another_process_maps_the_cache_again(train):
    encoded, *_ = read_files(train)
    images = decoded(encoded, "key", print)
    content = pickle.dumps(images)
    assert len(content) < 1_000
    assert equal(pickle.loads(content), encoded)  # noqa: S301 - our own


@pytest.mark.parametrize("name", ["sizes.npy", "pixels.bin"])
@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_half_written_cache_is_done_without(train, name, content):
    encoded, *_ = read_files(train)
    decoded(encoded, "key", print)
    (cache_dir() / "decoded" / "key" / name).write_bytes(content)
    lines = []
    assert decoded(encoded, "key", lines.append) is encoded
    assert "delete it" in lines[0]


def test_what_a_killed_process_left_is_swept(train):
    left = cache_dir() / "decoded" / "keyabc.part"
    left.mkdir(parents=True)
    decoded(read_files(train)[0], "key", print)
    assert not left.exists()


def test_order_is_by_content_within_a_class(train, folder):
    encoded, digests, _ = read_files(train)
    assert digests[:3] == sorted(digests[:3])
    assert digests[3:] == sorted(digests[3:])
    for number, path in enumerate(sorted((folder / "a").iterdir())):
        path.rename(folder / "a" / f"{9 - number}.jpg")
    renamed, same, _ = read_files(ImageFolder("x", folder).read(None, print)[0])
    assert same == digests
    assert equal(renamed, encoded)
    assert [path.parent.name for path in encoded.paths] == ["a"] * 3 + ["b"] * 3
