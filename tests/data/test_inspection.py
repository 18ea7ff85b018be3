import errno
import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmlbench.data import ready
from dmlbench.data.family import cache_dir
from dmlbench.data.folder import ImageFolder
from dmlbench.data.ready import inspect, look_at, unusable
from tests.data.bad_images import BAD


@pytest.fixture
def sides(bad_folder):
    return ImageFolder("x", bad_folder).read(None, print)


def test_each_bad_image_is_named(sides):
    assert unusable(inspect(sides, print)) == BAD


def test_what_becomes_rgb(sides):
    train, test = inspect(sides, print)
    notes = {path: finding.note for path, finding in (train | test).items() if finding.note}
    assert notes == {
        "c/cmyk.jpg": "CMYK, becomes RGB", "c/grey.jpg": "grey, becomes RGB", "d/palette.png": "palette, becomes RGB",
    }  # fmt: skip


def test_findings_of_a_sound_image(folder):
    path = folder / "a" / "0.jpg"
    finding = look_at(path)
    assert (finding.width, finding.height, finding.mode, finding.problem) == (40, 30, "RGB", "")
    assert finding.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_sixteen_bits_are_the_wrong_mode(tmp_path):
    Image.fromarray(np.zeros((20, 20), dtype=np.uint16)).save(tmp_path / "deep.png")
    assert "no 8-bit colours" in look_at(tmp_path / "deep.png").problem


def deep_png(colour_type: int, channels: int) -> bytes:
    """A PNG of 32 x 32 px with 16 bits a channel, which PIL cannot write in colour."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = np.random.default_rng(0).integers(0, 65_535, (32, 32, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 32, 32, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_also_in_colour(tmp_path, colour_type, channels):
    (tmp_path / "deep.png").write_bytes(deep_png(colour_type, channels))
    assert "no 8-bit colours" in look_at(tmp_path / "deep.png").problem


def test_a_cache_without_room_is_left_as_it_was(sides, monkeypatch):
    def no_room(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    assert unusable(inspect(sides, print)) == BAD
    assert list((cache_dir() / "inspections").iterdir()) == []


def test_a_user_without_home_inspects_all_the_same(sides, monkeypatch):
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert unusable(inspect(sides, print)) == BAD


def homeless() -> Path:
    """As Path.home() of a user that no list of users knows."""
    raise RuntimeError("Could not determine home directory.")


def test_a_missing_file(tmp_path):
    assert look_at(tmp_path / "absent.jpg").problem == "cannot be read (No such file or directory)"


def test_verdicts_are_kept_until_a_file_changes(sides, bad_folder):
    lines = []
    first = inspect(sides, lines.append)
    assert inspect(sides, lines.append) == first
    assert len(lines) == 1
    (bad_folder / "b" / "empty.jpg").write_bytes((bad_folder / "a" / "0.jpg").read_bytes())
    assert "b/empty.jpg" not in unusable(inspect(sides, lines.append))
    assert "decoding 1 image " in lines[1]


def test_a_file_that_keeps_its_size_and_time_is_seen(sides, bad_folder):
    inspect(sides, print)
    path = bad_folder / "a" / "0.jpg"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=times)
    assert unusable(inspect(sides, print))["a/0.jpg"] == "not an image"


def test_an_inspection_anew_believes_nothing(sides, monkeypatch):
    inspect(sides, print)
    monkeypatch.setattr(ready, "_stamp", lambda _: (1, 2, 3))
    inspect(sides, print)
    monkeypatch.setattr(ready, "look_at", lambda _: ready.Finding("", 0, 0, "", "another verdict"))
    assert unusable(inspect(sides, print)) == BAD
    assert len(unusable(inspect(sides, print, anew=True))) == 19
    assert len(unusable(inspect(sides, print))) == 19


def test_verdicts_of_other_rules_are_none(sides, monkeypatch):
    inspect(sides, print)
    monkeypatch.setattr(ready, "RULES", "2")
    lines = []
    inspect(sides, lines.append)
    assert len(lines) == 1


def test_absurdly_large_images(tmp_path, monkeypatch):
    """Between PIL's limit, where it warns, and twice that, where it refuses by itself."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    for name in "abcd":
        (tmp_path / "many" / name).mkdir(parents=True)
        for number, side in enumerate((20, 40, 50)):
            Image.new("RGB", (side, side)).save(tmp_path / "many" / name / f"{number}.png")
    found = unusable(inspect(ImageFolder("x", tmp_path / "many").read(None, print), print))
    assert set(found.values()) == {"absurdly large"}
    assert len(found) == 8


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a/0.jpg": 1}', '{"a/0.jpg": {"stamp": [1], "finding": {}}}'])
def test_a_damaged_record_costs_another_look(sides, content):
    first = inspect(sides, print)
    (record,) = (cache_dir() / "inspections").glob("*.json")
    record.write_text(content)
    assert inspect(sides, print) == first
    assert inspect(sides, print) == first


def test_progress(tmp_path):
    for name in "abcd":
        (tmp_path / "many" / name).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (9, 9)).save(tmp_path / "many" / name / f"{number}.png")
    lines = []
    inspect(ImageFolder("x", tmp_path / "many").read(None, print), lines.append)
    assert lines[1:] == [f"decoded {count} of 120" for count in range(12, 121, 12)]
