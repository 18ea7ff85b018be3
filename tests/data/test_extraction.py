import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from dmlbench.data.archives import Archive, extract, fetch_and_extract, file_checksum
from dmlbench.data.family import below
from dmlbench.errors import UserError

LARGEST = 8 << 30


def tar(path: Path, *members, mode="w:gz") -> Path:
    """A tar of (name, content) files and TarInfo entries."""
    with tarfile.open(path, mode) as opened:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                opened.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                opened.addfile(info, io.BytesIO(member[1]))
    return path


def zipped(path: Path, *members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return path


def entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def everything_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


GOOD = (("set/images/a.jpg", b"A"), ("set/list.txt", b"a"), ("set/empty", b""), ("attributes.txt", b"beside"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar(tmp_path, mode):
    extract(tar(tmp_path / "a.tar", *GOOD, mode=mode), tmp_path, "set", LARGEST)
    assert everything_below(tmp_path / "set") == ["empty", "images", "images/a.jpg", "list.txt"]
    assert (tmp_path / "set/images/a.jpg").read_bytes() == b"A"
    assert everything_below(tmp_path)[0] == "a.tar"  # what lay beside the folder is not kept
    assert len(list(tmp_path.iterdir())) == 2


def test_a_zip(tmp_path):
    folder = zip_entry("set/inner/", stat.S_IFDIR | 0o755)
    extract(zipped(tmp_path / "a.zip", *GOOD, (folder, "")), tmp_path, "set", LARGEST)
    assert everything_below(tmp_path / "set") == ["empty", "images", "images/a.jpg", "inner", "list.txt"]


EVIL_NAMES = ["../evil", "set/../../evil", "/evil-of-dmlbench", "C:/evil", "set\\..\\evil", "C:\\evil"]


def refused(make, tmp_path, match, *members):
    """An archive in a folder of its own is refused, and nothing is written anywhere."""
    folder = tmp_path / "outer" / "data"
    folder.mkdir(parents=True)
    archive = make(tmp_path / "outer" / "archive", *GOOD[:1], *members, ("set/after", b"x"))
    before = everything_below(tmp_path)
    with pytest.raises(UserError, match=match) as caught:
        extract(archive, folder, "set", LARGEST)
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("make", [tar, zipped])
def test_names_that_point_outside(tmp_path, make, name):
    refused(make, tmp_path, "points outside", (name, b"evil"))
    assert not Path("/evil-of-dmlbench").exists()


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link"), (tarfile.LNKTYPE, "a link"), (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"), (tarfile.FIFOTYPE, "a device"),
    ],
)  # fmt: skip
def test_links_and_devices_in_a_tar(tmp_path, kind, what):
    refused(tar, tmp_path, f"'set/out' is {what}", entry("set/out", kind, "../../.."))


@pytest.mark.parametrize(("kind", "what"), [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "a device")])
def test_links_and_devices_in_a_zip(tmp_path, kind, what):
    refused(zipped, tmp_path, f"'set/out' is {what}", (zip_entry("set/out", kind | 0o777), "../../.."))


def test_a_bomb_in_a_tar_is_refused_by_its_head(tmp_path):
    bomb = tarfile.TarInfo("set/bomb")
    bomb.size = 10_000_000_000
    head = tar(tmp_path / "head.tar", *GOOD, mode="w").read_bytes()[:-10_240] + bomb.tobuf()
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "bomb.tar").write_bytes(head + bytes(1 << 20))
    with pytest.raises(UserError, match=r"unpacks to more than 8\.0 GiB"):
        extract(tmp_path / "bomb.tar", folder, "set", LARGEST)
    assert everything_below(folder) == []


@pytest.mark.slow
def test_a_true_bomb_of_ten_gigabytes_in_a_zip(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    bomb = zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with bomb as opened, opened.open("set/bomb", "w", force_zip64=True) as member:
        for _ in range(10_000):
            member.write(bytes(1_000_000))
    assert (tmp_path / "bomb.zip").stat().st_size < 100_000_000
    with pytest.raises(UserError, match=r"unpacks to more than 8\.0 GiB"):
        extract(tmp_path / "bomb.zip", folder, "set", LARGEST)
    assert everything_below(folder) == []


def test_many_small_members_count_together(tmp_path):
    archive = zipped(tmp_path / "a.zip", *((f"set/{number}", bytes(100)) for number in range(30)))
    with pytest.raises(UserError, match="unpacks to more than"):
        extract(archive, tmp_path, "set", 2_900)
    assert everything_below(tmp_path) == ["a.zip"]


def test_a_zip_that_lies_about_a_size(tmp_path):
    path = zipped(tmp_path / "a.zip", ("set/long", bytes(5000)))
    content = path.read_bytes().replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|longer than it says"):
        extract(path, tmp_path, "set", LARGEST)
    assert everything_below(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("cut", [40, 200])
def test_truncated_archives(tmp_path, cut):
    path = tar(tmp_path / "a.tgz", *GOOD, ("set/noise", bytes(range(256)) * 40))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match="damaged"):
        extract(path, tmp_path, "set", LARGEST)
    assert everything_below(tmp_path) == ["a.tgz"]


def test_what_is_no_archive(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UserError, match="damaged"):
        extract(tmp_path / "a.zip", tmp_path, "set", LARGEST)


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    with pytest.raises(UserError, match="is there already"):
        extract(zipped(tmp_path / "a.zip", *GOOD), tmp_path, "set", LARGEST)
    assert everything_below(tmp_path / "set") == ["mine"]


def test_an_archive_of_something_else(tmp_path):
    with pytest.raises(UserError, match="holds no folder other"):
        extract(zipped(tmp_path / "a.zip", *GOOD), tmp_path, "other", LARGEST)
    assert everything_below(tmp_path) == ["a.zip"]


@pytest.fixture
def published(tmp_path):
    """An archive of `GOOD` as published, lying in the data folder already."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = tar(folder / "set.tgz", *GOOD)
    return Archive("set.tgz", "https://nowhere.invalid/set.tgz", file_checksum(path, "md5:"), "set", 1.0)


def test_an_archive_that_lies_there_is_unpacked_once(published, tmp_path):
    lines = []
    for _ in range(2):
        fetch_and_extract(published, tmp_path / "data", lines.append)
    assert (tmp_path / "data" / "set" / "images" / "a.jpg").is_file()
    assert len(lines) == 2


def test_what_a_killed_process_left_is_swept_and_never_found(published, tmp_path):
    left = tmp_path / "data" / ".setabc.part" / "set"
    left.mkdir(parents=True)
    (left / "list.txt").touch()
    assert below(tmp_path / "data", "list.txt", hint="") == []
    fetch_and_extract(published, tmp_path / "data", print)
    assert not left.exists()
    assert len(below(tmp_path / "data", "list.txt", hint="")) == 1


def test_names_that_no_file_can_have(tmp_path):
    with pytest.raises(UserError, match="damaged"):
        extract(tar(tmp_path / "a.tar", ("set/a", b"x"), ("set/nul\0" + "x" * 200, b"x")), tmp_path, "set", LARGEST)
