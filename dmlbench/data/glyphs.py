"""`glyphs`: the embedded dataset, handwriting-like characters drawn by `alphabet` and `drawing`.

100 training and 100 test classes of 20 drawings, from alphabets of one kind; made in seconds, the same to the last
bit on every machine, and kept in the user's cache folder. Changing a constant of the two modules makes another
dataset: raise `VERSION` and pin the new `SHA256`, which the error of the first use states.
"""

import hashlib
import io
import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dmlbench.data.alphabet import Draws, alphabets
from dmlbench.data.cache import cache_dir
from dmlbench.data.drawing import SIZE, draw
from dmlbench.data.family import LabelledImages, Log
from dmlbench.errors import UserError

VERSION = "1"
SHA256 = "75ec3a1d61dc0110a93167aa78b25cf99e6f69e61ce723a8d08b9eea0d8f68a6"

CLASSES = 100  # on either side
INSTANCES = 20
ALPHABETS = 10  # on either side
SKELETONS, DRAWINGS = 1, 2  # streams

# All that NumPy and zipfile raise for a file of other bytes than they wrote.
DAMAGE = (ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)


def prepare(data_dir: Path | None, log: Log) -> None:  # noqa: ARG001 - needs no folder
    """Generate the images into the cache unless they are there."""
    _cached(log)


def read(data_dir: Path | None, log: Log) -> tuple[LabelledImages, LabelledImages]:  # noqa: ARG001
    """Training and test classes: uint8 (2000, 1, 28, 28), ink 255 on 0."""
    images = _cached(log).reshape(2, CLASSES * INSTANCES, 1, SIZE, SIZE)
    return _labelled(images[0], "train"), _labelled(images[1], "test")


def generate() -> NDArray[np.uint8]:
    """All images, uint8 (2 * CLASSES, INSTANCES, SIZE, SIZE): the training classes, then the test classes."""
    draws = Draws(DRAWINGS)
    characters = alphabets(2 * ALPHABETS, Draws(SKELETONS))
    return np.stack([draw(character, INSTANCES, draws) for character in characters])


def _labelled(images: NDArray[np.uint8], side: str) -> LabelledImages:
    per_alphabet = CLASSES // ALPHABETS
    names = tuple(f"{side}{k // per_alphabet:02d}/character{k % per_alphabet:02d}" for k in range(CLASSES))
    paths = tuple(f"{name}/{k:02d}" for name in names for k in range(INSTANCES))
    return LabelledImages(images, np.repeat(np.arange(CLASSES, dtype=np.int64), INSTANCES), names, paths)


def _cached(log: Log) -> NDArray[np.uint8]:
    """The images from the cache; absent or damaged ones are drawn again, by one process at a time."""
    path = cache_dir() / f"glyphs-{VERSION}.npz"
    try:
        images = _load(path)  # before the lock, which a read-only folder refuses
        return images if images is not None else _made(path, log)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}", hint="set XDG_CACHE_HOME to a writable folder") from error


def _made(path: Path, log: Log) -> NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        images = _load(path)  # perhaps another process was first
        if images is None:
            again = f"{path} is damaged or of another version, drawing it again"
            log(f"glyphs: {again}" if path.exists() else f"glyphs: drawing them into {path}")
            images = _drawn()
            _save(path, images)
    return images


def _load(path: Path) -> NDArray[np.uint8] | None:
    """The cached images, None if absent, damaged or not this version's."""
    if not path.exists():
        return None
    content = io.BytesIO(path.read_bytes())  # NumPy leaves a file of its own open when the contents are damaged
    try:
        with np.load(content, allow_pickle=False) as arrays:
            images: NDArray[np.uint8] = arrays["images"]
    except DAMAGE:
        return None
    return images if _sha256(images) == SHA256 else None


def _drawn() -> NDArray[np.uint8]:
    images = generate()
    if _sha256(images) != SHA256:
        raise UserError(
            f"glyphs: version {VERSION} is sha256 {SHA256}, this machine draws {_sha256(images)}",
            hint="results would not be comparable; please report the platform and the NumPy version",
        )
    return images


def _save(path: Path, images: NDArray[np.uint8]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, images=images)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sha256(images: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
