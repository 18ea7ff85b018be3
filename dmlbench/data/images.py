"""Loaded datasets: images and contiguous labels, and validation classes held out of training.

Image files are encoded in memory and decoded when asked for, or decoded once into a mapped cache.
"""

import hashlib
import io
import itertools
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import PIL
import simplejpeg
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from dmlbench.atomic import replacing
from dmlbench.data.augment import Images
from dmlbench.data.catalogue import family_of
from dmlbench.data.family import (
    LabelledFiles,
    LabelledImages,
    Log,
    cache_dir,
    content_order,
    files_fingerprint,
    fingerprint,
)
from dmlbench.data.folds import fold_mask, held_out_classes
from dmlbench.data.ready import check_counts, files_of
from dmlbench.errors import UserError, counted
from dmlbench.seeding import stream
from dmlbench.specs.cell import Cell
from dmlbench.specs.dataset import DatasetSpec

IN_MEMORY_BYTES = 16 << 30
DECODED_BYTES = 4 << 30  # per side of a split; a larger one is decoded anew for every batch
TYPICAL_COMPRESSION = 4  # JPEGs decode to at least this many times their size


@dataclass(frozen=True)
class EncodedImages:
    """Files decoded when asked for, as uint8 (3, H, W).

    Attributes:
        paths: One file an image.
        content: uint8, all files one after another; None where they are too large and are read one by one.
        spans: int64 (N, 2), where each file begins and ends in `content`.
    """

    paths: tuple[Path, ...]
    content: Tensor | None
    spans: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        try:
            return decode(self._encoded(index))
        except (OSError, SyntaxError, ValueError) as error:
            what = f"{self.paths[index]}: cannot be decoded ({str(error).splitlines()[0]})"
            raise UserError(what, hint="see `dmlbench data check`, or leave it out with --skip-bad") from error

    def _encoded(self, index: int) -> Tensor:
        if self.content is None:
            return torch.frombuffer(bytearray(self.paths[index].read_bytes()), dtype=torch.uint8)
        start, end = self.spans[index].tolist()
        return self.content[start:end]


@dataclass(frozen=True)
class DecodedImages:
    """Decoded pixels, mapped from a file that all processes share.

    Attributes:
        folder: The cache's, from which another process maps it again.
        pixels: uint8 (sum of H * W * 3,).
        sizes: int64 (N, 2), heights and widths.
        ends: int64 (N,), where each image ends in `pixels`.
    """

    folder: Path
    pixels: Tensor
    sizes: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def opened(cls, folder: Path) -> "DecodedImages":
        """Map a cache; raises OSError, ValueError or EOFError where it is damaged."""
        sizes = np.load(folder / "sizes.npy")
        # A private map: torch wants memory that it could write, and nothing it writes reaches the file.
        pixels = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="c")
        ends = np.cumsum(3 * sizes.prod(axis=1))
        if ends[-1] != len(pixels):
            raise ValueError("sizes and pixels do not belong together")
        return cls(folder, torch.from_numpy(pixels), sizes, ends)

    def __reduce__(self) -> tuple[Callable[[Path], "DecodedImages"], tuple[Path]]:
        return DecodedImages.opened, (self.folder,)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.sizes[index].tolist()
        start = self.ends[index] - 3 * height * width
        return self.pixels[start : self.ends[index]].view(height, width, 3).permute(2, 0, 1)


def read_files(files: LabelledFiles) -> tuple[EncodedImages, list[str], LabelledFiles]:
    """Read a side's files, into memory unless they are very large together.

    Returns:
        The images, the SHA-256 of their files, and the side itself, all by class, and within a class by this SHA-256.
        So neither names nor the layout of a release decide which image a position of the sampler means.

    Raises:
        UserError: a file that cannot be read.
    """
    paths = tuple(files.root / path for path in files.paths)
    digests: list[str] = []
    try:
        ends = np.cumsum([path.stat().st_size for path in paths])
        kept = torch.empty(int(ends[-1]), dtype=torch.uint8) if ends[-1] <= IN_MEMORY_BYTES else None
        for path, end in zip(paths, ends.tolist(), strict=True):
            content = path.read_bytes()
            digests.append(hashlib.sha256(content).hexdigest())
            if kept is not None:
                kept.numpy()[end - len(content) : end] = np.frombuffer(content, dtype=np.uint8)
    except OSError as error:
        hint = "see `dmlbench data check`"
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})", hint=hint) from error
    order = content_order(files, digests)
    spans = np.stack((np.concatenate(([0], ends[:-1])), ends), axis=1)[order]
    images = EncodedImages(tuple(paths[i] for i in order), kept, spans)
    return images, [digests[i] for i in order], files.at(order)


def decoded(images: EncodedImages, key: str, log: Log) -> EncodedImages | DecodedImages:
    """The images decoded, from the cache's `key`, made on first use; unchanged where too large for it or the disk."""
    if images.spans.max() * TYPICAL_COMPRESSION > DECODED_BYTES:
        return images
    try:
        folder = cache_dir() / "decoded" / key
    except UserError as error:
        log(f"no cache of decoded images: {error}")
        return images
    try:
        if not folder.is_dir() and not _make(images, folder, log):
            return images
        found = DecodedImages.opened(folder)
    except (OSError, ValueError, EOFError) as error:
        log(f"{folder}: not used as a cache of decoded images ({error}); delete it to have it made again")
        return images
    if len(found) != len(images):
        log(f"{folder}: not the images of its name; delete it to have it made again")
        return images
    return found


def _make(images: EncodedImages, folder: Path, log: Log) -> bool:
    """Decode into the cache unless it would be too large; the folder appears whole or not at all."""
    size = 3 * int(_sizes(images).prod(axis=1).sum())
    folder.parent.mkdir(parents=True, exist_ok=True)
    if size > DECODED_BYTES or size > shutil.disk_usage(folder.parent).free // 4:
        return False
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir():
            return True
        for left in folder.parent.glob(f"{folder.name}*.part"):  # by a process that was killed: this one has the lock
            shutil.rmtree(left, ignore_errors=True)
        log(f"decoding {counted(len(images), 'image')} into {folder} ({size / 2**20:.0f} MiB)")
        with TemporaryDirectory(".part", folder.name, folder.parent, ignore_cleanup_errors=True) as temporary:
            _write(images, Path(temporary))
            Path(temporary).rename(folder)
    return True


def _write(images: EncodedImages, folder: Path) -> None:
    sizes = []
    with replacing(folder / "pixels.bin") as file:
        for index in range(len(images)):
            image = images[index].permute(1, 2, 0)
            sizes.append(image.shape[:2])
            file.write(image.contiguous().numpy().data)
    with replacing(folder / "sizes.npy") as file:
        np.save(file, np.array(sizes, dtype=np.int64))


def _sizes(images: EncodedImages) -> NDArray[np.int64]:
    """Heights and widths from the files' heads, without decoding."""
    sizes = []
    for index in range(len(images)):
        with Image.open(io.BytesIO(images._encoded(index).numpy().tobytes())) as opened:
            sizes.append((opened.height, opened.width))
    return np.array(sizes, dtype=np.int64)


JPEG = b"\xff\xd8\xff"
SAME_AS_PIL = ("YCbCr", "RGB", "Gray")  # PIL converts CMYK by a formula of its own


def decode(content: Tensor) -> Tensor:
    """Decode a file's bytes, uint8, to uint8 (3, H, W), channels last in memory, as PIL's ``convert("RGB")`` does.

    libjpeg-turbo decodes JPEGs directly, bit for bit as PIL does through it and faster; PIL everything else.

    Raises:
        OSError, SyntaxError or ValueError: not an image, or a truncated one.
    """
    encoded = content.numpy()
    if encoded[: len(JPEG)].tobytes() == JPEG:
        with suppress(ValueError):  # a flaw, of which PIL is the judge
            *_, colours, _ = decode_jpeg_header(encoded)
            if colours in SAME_AS_PIL:
                return torch.from_numpy(decode_jpeg(encoded)).permute(2, 0, 1)
    with Image.open(io.BytesIO(encoded.tobytes())) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)


LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images of one set of classes, uint8 (C, H, W) each: a tensor (N, C, H, W), or files; else as `LabelledImages`.

    `queries`, bool (N,), says which are queries that search among the others; None where each searches all others.
    """

    images: Images
    labels: Tensor
    class_names: tuple[str, ...]
    paths: tuple[str, ...] = ()
    queries: Tensor | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset with disjoint training and test classes; `fingerprint` is the SHA-256 of everything in it."""

    name: str
    train: Split
    test: Split
    fingerprint: str


def load_dataset(spec: DatasetSpec, data_dir: Path | None = None, log: Log = LOGGER.info) -> Dataset:
    """Read a dataset, of a folder or the cache: small ones into memory, files encoded or as a mapped cache of pixels.

    Where its spec holds out training classes or a fold of them, they are the test side, and the test classes are in
    neither.

    Raises:
        UserError: An unknown name, or files that are missing, damaged or not those of the version.
    """
    whole = _load(spec, data_dir, log)
    if spec.fold:
        tested = fold_mask(whole.train.class_names, spec.fold)
        train, test = (_select(whole.train, np.flatnonzero(side)) for side in (~tested, tested))
        return replace(whole, train=train, test=test)
    train, held_out = split_classes(whole.train, spec.held_out)
    return replace(whole, train=train, test=held_out) if held_out else whole


def load_of_cell(cell: Cell, data_dir: Path | None = None, log: Log = LOGGER.info) -> Dataset:
    """A cell's dataset: see `load_dataset`; split by the cell's seed where its protocol varies the split."""
    dataset = load_dataset(cell.dataset, data_dir, log)
    return split_anew(dataset, cell.seed) if cell.protocol.training.vary == "split" else dataset


def split_anew(dataset: Dataset, seed: int) -> Dataset:
    """The same classes, as many of them for training as before, but others: a shuffle of all by the seed.

    Which classes are tested is a source of variance like any other; published splits are one draw of it. Test images
    that are queries and a gallery have none: see `ready.check_exchangeable`.
    """
    train, test = dataset.train, dataset.test
    classes = len(train.class_names) + len(test.class_names)
    whole = Split(
        _joined(train.images, test.images),
        torch.cat([train.labels, test.labels + len(train.class_names)]),
        (*train.class_names, *test.class_names),
        (*train.paths, *test.paths),
    )
    order = stream(seed, 0, "classes that train").permutation(classes)
    count = len(train.class_names)
    return replace(dataset, train=_select(whole, order[:count]), test=_select(whole, order[count:]))


def _joined(first: Images, second: Images) -> Images:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    joined: ConcatDataset[Tensor] = ConcatDataset([cast("Any", own) for own in (first, second)])
    return joined


def split_classes(split: Split, fraction: float) -> tuple[Split, Split | None]:
    """Hold out classes for validation, as many as `held_out_classes` says.

    The choice is one fixed shuffle of the classes, the same for all methods and seeds. Labels are renumbered
    contiguously on both sides, in the original order.

    Raises:
        UserError: Fewer than 2 classes would remain for training.
    """
    classes = len(split.class_names)
    held_out = held_out_classes(classes, fraction)
    if not held_out:
        return split, None
    order = stream(0, 0, "validation classes").permutation(classes)
    return _select(split, order[held_out:]), _select(split, order[:held_out])


def _load(spec: DatasetSpec, data_dir: Path | None, log: Log) -> Dataset:
    sides = family_of(spec).read(data_dir, log)
    files = files_of(sides)
    check_counts(spec, sides)
    if files is None:
        found = [side for side in sides if isinstance(side, LabelledImages)]
        return Dataset(spec.name, _split(found[0]), _split(found[1]), fingerprint(*found))
    return _load_files(spec, files, log)


def _load_files(spec: DatasetSpec, files: tuple[LabelledFiles, LabelledFiles], log: Log) -> Dataset:
    encoded, digests, kept = zip(*(read_files(side.without(frozenset(spec.skipped))) for side in files), strict=True)
    whole = files_fingerprint(zip(kept, digests, strict=True))
    if spec.root is not None and not whole.startswith(spec.version):
        found = f"{spec.name}: {spec.root} holds other images than version {spec.version} (now {whole[:12]})"
        hint = "they changed under the run, or without a trace: `dmlbench data check` looks anew; then run it again"
        raise UserError(found, hint=hint)
    # Decoders of different releases may differ by a grey level, and one's pixels must not pass for another's.
    key = f"{whole[:16]}-simplejpeg{simplejpeg.__version__}-pillow{PIL.__version__}"
    names = ("train", "test")
    images = [decoded(side, f"{key}-{name}", log) for side, name in zip(encoded, names, strict=True)]
    train, test = (
        Split(pictures, torch.from_numpy(side.labels), side.class_names, side.paths, _roles(side))
        for pictures, side in zip(images, kept, strict=True)
    )
    return Dataset(spec.name, train, test, whole)


def _roles(side: LabelledFiles) -> Tensor | None:
    return None if side.queries is None else torch.from_numpy(side.queries)


def _split(arrays: LabelledImages) -> Split:
    return Split(torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels), arrays.class_names, arrays.paths)


def _select(split: Split, classes: np.ndarray) -> Split:
    kept = torch.from_numpy(np.sort(classes))
    mask = torch.isin(split.labels, kept)
    labels = torch.searchsorted(kept, split.labels[mask])
    images: Any = split.images
    selected = images[mask] if isinstance(images, Tensor) else Subset(images, mask.nonzero()[:, 0].tolist())
    paths = tuple(itertools.compress(split.paths, mask.tolist()))
    return Split(selected, labels, tuple(split.class_names[index] for index in kept.tolist()), paths)
