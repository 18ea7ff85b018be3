"""`omniglot-small`: Lake et al.'s two small background sets, read straight out of the published archives.

Both archives hold Greek and Latin. A class-disjoint split therefore trains on all of the first (136 classes) and
tests on the second without these two alphabets (106 classes).
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmlbench.data import archives
from dmlbench.data.archives import Progress, file_checksum, verify
from dmlbench.data.family import LabelledImages, Log, below, cache_dir
from dmlbench.errors import UserError

URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
MOST = 64 << 20  # bytes of an archive: they have 3 and 6 MB


@dataclass(frozen=True)
class Archive:
    """A published file, its checksum, and the alphabets of it that the split leaves out."""

    name: str
    sha256: str
    left_out: tuple[str, ...] = ()


TRAIN = Archive("images_background_small1.zip", "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4")
TEST = Archive(
    "images_background_small2.zip",
    "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    left_out=("Greek", "Latin"),
)
VERSION = hashlib.sha256(repr((TRAIN, TEST)).encode()).hexdigest()[:12]


def prepare(data_dir: Path | None, log: Log) -> None:
    """Find and verify both archives; only without a given folder are missing ones downloaded, into the cache."""
    for archive in (TRAIN, TEST):
        _locate(archive, data_dir, log)


def fetch(folder: Path, log: Log, progress: Progress | None = None) -> None:
    """Download both archives into `folder` unless they are there; they are read without unpacking."""
    for archive in (TRAIN, TEST):
        _download(archive, folder, log, progress)


def read(data_dir: Path | None, log: Log) -> tuple[LabelledImages, LabelledImages]:
    """Training and test classes: uint8 (N, 1, 105, 105), ink 255 on 0; class names are ``Alphabet/characterNN``."""
    train, test = (_read_archive(_locate(archive, data_dir, log), archive) for archive in (TRAIN, TEST))
    return train, test


def _locate(archive: Archive, data_dir: Path | None, log: Log) -> Path:
    if data_dir is not None:
        return _find(archive, data_dir)
    return _download(archive, cache_dir(), log)


def _download(archive: Archive, folder: Path, log: Log, progress: Progress | None = None) -> Path:
    path = folder / "omniglot" / archive.name
    archives.fetch(URL + archive.name, path, f"sha256:{archive.sha256}", log, progress, most=MOST)
    return path


def _find(archive: Archive, data_dir: Path) -> Path:
    """The first intact copy at most `family.SEARCH_DEPTH` folders down; a damaged one is reported, never replaced."""
    hint = f"place {URL}{archive.name} in its subfolder omniglot/, or leave --data-dir and DMLBENCH_DATA out"
    found = [path for path in below(data_dir, archive.name, hint=hint) if path.is_file()]
    if not found:
        raise UserError(f"{data_dir}: {archive.name} not found (sha256 {archive.sha256})", hint=hint)
    checksum = f"sha256:{archive.sha256}"
    chosen = next((path for path in found if file_checksum(path) == checksum), found[0])
    verify(chosen, checksum)
    return chosen


def _read_archive(path: Path, archive: Archive) -> LabelledImages:
    with zipfile.ZipFile(path) as opened:
        class_names, paths = zip(*_members(opened, archive), strict=True)
        images = np.stack([_decode(opened.read(member)) for member in paths])
    numbers = {name: number for number, name in enumerate(dict.fromkeys(class_names))}
    labels = np.array([numbers[name] for name in class_names], dtype=np.int64)
    return LabelledImages(images, labels, tuple(numbers), paths)


def _members(opened: zipfile.ZipFile, archive: Archive) -> Iterator[tuple[str, str]]:
    """(class name, member) of every drawing, sorted, so that classes and images have one order everywhere."""
    for member in sorted(opened.namelist()):
        path = PurePosixPath(member)
        if path.suffix == ".png" and len(path.parts) == 4:
            _, alphabet, character, _ = path.parts
            if alphabet not in archive.left_out:
                yield f"{alphabet}/{character}", member


def _decode(content: bytes) -> NDArray[np.uint8]:
    """PNG with black ink on white to (1, H, W) with ink 255 on 0."""
    with Image.open(io.BytesIO(content)) as image:
        return 255 - np.asarray(image.convert("L"), dtype=np.uint8)[None]
