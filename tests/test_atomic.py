import os
from pathlib import Path

import pytest

from dmlbench.atomic import replacing, write_atomically


def test_a_reader_sees_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    write_atomically(path, b"new \xff")
    assert path.read_bytes() == b"new \xff"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_midway_leaves_the_old_content(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def fail(*_args):
        assert path.read_text() == "old"
        raise error

    monkeypatch.setattr(failing, fail)
    with pytest.raises(type(error)):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_replaced_may_stay_as_the_previous_one(tmp_path):
    path, previous = tmp_path / "new", tmp_path / "old"
    for content in (b"1", b"2", b"3"):
        with replacing(path, previous) as file:
            file.write(content)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")


def test_a_failing_write_leaves_both(tmp_path, monkeypatch):
    path, previous = tmp_path / "new", tmp_path / "old"
    for content in (b"1", b"2"):
        with replacing(path, previous) as file:
            file.write(content)
    monkeypatch.setattr("os.fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError), replacing(path, previous) as file:
        file.write(b"3")
    assert (path.read_bytes(), previous.read_bytes()) == (b"2", b"1")
    assert sorted(tmp_path.iterdir()) == [path, previous]


def test_content_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda descriptor: (order.append("flush"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, target: (order.append("rename"), replace(path, target))[1])
    write_atomically(tmp_path / "file", "text")
    assert order == ["flush", "rename", "flush"]  # at last the folder
