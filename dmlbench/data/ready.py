"""Before a run: data are found and verified, unusable images are named, and contents get their version.

Every image is decoded once: what it is, whether it can be used, and its file's checksum. The verdicts are kept in the
cache folder and hold for a file as long as its size and times of change do.
"""

import hashlib
import io
import json
import os
import stat
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from dmlbench.atomic import write_atomically
from dmlbench.data.catalogue import DatasetInfo, dataset_info, family_of
from dmlbench.data.family import (
    LabelledFiles,
    LabelledImages,
    Log,
    Side,
    cache_dir,
    files_fingerprint,
    fingerprint,
    some,
    stated,
)
from dmlbench.data.folder import HALF, ImageFolder, OwnImages
from dmlbench.errors import UserError, counted, inflected
from dmlbench.machine import usable_cores
from dmlbench.specs.dataset import DatasetSpec

SMALLEST_SIDE = 8  # pixels; less than that shows nothing
MODES = {  # what PIL calls them, and what happens to them
    "RGB": "", "L": "grey", "1": "black and white", "P": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr",
    "RGBA": "with transparency", "LA": "grey with transparency", "PA": "palette with transparency",
}  # fmt: skip
REPORTED_STEPS = 10
RULES = f"2, pillow {PIL.__version__}"  # verdicts of other rules are none; raise the number with a change of them

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Finding:
    """One image file: pixels are 0 where it cannot be decoded, `mode` is PIL's, `problem` why it cannot be used."""

    sha256: str
    width: int
    height: int
    mode: str
    problem: str = ""

    @property
    def note(self) -> str:
        """How it becomes RGB, where it is not; empty for RGB."""
        kind = MODES.get(self.mode, "")
        return f"{kind}, becomes RGB" if kind and not self.problem else ""


def inspect(sides: Sequence[LabelledFiles], log: Log, *, anew: bool = False) -> list[dict[str, Finding]]:
    """For each side of a split its findings by path, in order; `anew` decodes also what an earlier inspection knows."""
    root = sides[0].root
    kept = _Kept(root)
    paths = [path for side in sides for path in side.paths]
    stamps = {path: _stamp(root / path) for path in paths}
    known = {} if anew else {path: found for path in paths if (found := kept.get(path, stamps[path]))}
    if unknown := [path for path in paths if path not in known]:
        log(f"decoding {counted(len(unknown), 'image')} of {root} to see that all can be used")
        known |= zip(unknown, _looked_at(root, unknown, log), strict=True)
        kept.save(known, stamps)
    return [{path: known[path] for path in side.paths} for side in sides]


def look_at(path: Path) -> Finding:
    """Read and decode one file, fully."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            return Finding("", 0, 0, "", "no regular file")
        content = path.read_bytes()
    except OSError as error:
        return Finding("", 0, 0, "", f"cannot be read ({error.strerror})")
    sha256 = hashlib.sha256(content).hexdigest()
    if not content:
        return Finding(sha256, 0, 0, "", "empty file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height, mode = image.width, image.height, image.mode
            # PIL gives 16 bits a channel in colour as if they were eight: the file's own mode, `RGB;16B`, is an
            # argument of its decoder.
            deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
            image.load()
    except Exception as error:  # noqa: BLE001 - decoders of damaged files raise nearly anything
        return Finding(sha256, 0, 0, "", _undecodable(error))
    problem = "" if mode in MODES else f"mode {mode}: no 8-bit colours or greys"
    if deep:
        problem = "more than 8 bits a colour: PIL would cut them off, no 8-bit colours or greys"
    if min(width, height) < SMALLEST_SIDE:
        problem = f"{width} x {height} px: shows nothing (the least is {SMALLEST_SIDE})"
    return Finding(sha256, width, height, mode, problem)


def unusable(findings: Iterable[dict[str, Finding]]) -> dict[str, str]:
    """Problems by path."""
    return {path: finding.problem for side in findings for path, finding in side.items() if finding.problem}


def on_both_sides(findings: Sequence[dict[str, Finding]]) -> list[tuple[str, ...]]:
    """Groups of usable images of one content of which some train and some test."""
    train, test = map(_by_content, findings)
    return [tuple(train[content] + test[content]) for content in train if content in test]


def in_both_roles(test: LabelledFiles, findings: dict[str, Finding]) -> list[tuple[str, ...]]:
    """Groups of usable test images of one content of which some are queries and some are in the gallery."""
    if test.queries is None:
        return []
    asking = {path for path, is_query in zip(test.paths, test.queries.tolist(), strict=True) if is_query}
    queries, gallery = (
        _by_content({path: finding for path, finding in findings.items() if (path in asking) is wanted})
        for wanted in (True, False)
    )
    return [tuple(queries[content] + gallery[content]) for content in queries if content in gallery]


def _by_content(findings: dict[str, Finding]) -> dict[str, list[str]]:
    """Paths of usable images by the digest of their files."""
    paths: dict[str, list[str]] = {}
    for path, finding in findings.items():
        if not finding.problem:
            paths.setdefault(finding.sha256, []).append(path)
    return paths


class _Kept:
    """Findings of earlier inspections of a folder, in the cache."""

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        self._file: Path | None = None
        self._entries: dict[str, dict[str, object]] = {}
        with suppress(UserError, OSError, ValueError, AttributeError, TypeError, KeyError):
            self._file = cache_dir() / "inspections" / f"{name}.json"
            record = json.loads(self._file.read_text(encoding="utf-8"))
            self._entries = dict(record["files"]) if record["rules"] == RULES else {}

    def get(self, path: str, stamp: Stamp | None) -> Finding | None:
        try:
            entry = self._entries[path]
            kept = entry["stamp"] == (list(stamp) if stamp else None)
            return Finding(**entry["finding"]) if kept else None  # type: ignore[arg-type]
        except (KeyError, TypeError):
            return None

    def save(self, findings: dict[str, Finding], stamps: dict[str, Stamp | None]) -> None:
        """A folder that takes no cache costs another inspection, nothing else."""
        if self._file is None:
            return
        fresh = {path: {"stamp": stamps[path], "finding": asdict(finding)} for path, finding in findings.items()}
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps({"rules": RULES, "files": self._entries | fresh}))


def _looked_at(root: Path, paths: list[str], log: Log) -> list[Finding]:
    """Decoders leave Python's lock, so threads use all cores."""
    found: list[Finding] = []
    step = max(1, len(paths) // REPORTED_STEPS)
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # the last filter is asked first
        for finding in pool.map(look_at, (root / path for path in paths)):
            found.append(finding)
            if len(found) % step == 0 and len(paths) > 10 * REPORTED_STEPS:
                log(f"decoded {len(found)} of {len(paths)}")
    return found


def _undecodable(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "absurdly large"
    message = (str(error) or type(error).__name__).splitlines()[0]
    return "truncated" if "truncated" in message.lower() else f"cannot be decoded ({message})"


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns  # copies may keep the first two


LISTED = 10


def dataset_spec(info: DatasetInfo, data_dir: Path | None, log: Log, *, skip_bad: bool = False) -> DatasetSpec:
    """The part of a cell's spec that names the data and fixes their contents.

    The version of a declared folder or CSV file is the digest of its contents and roles. With `skip_bad` images that
    cannot be used are left out, and what is left out enters the version.

    Raises:
        UserError: where images have to be read and cannot.
    """
    folder = info.family if isinstance(info.family, OwnImages) else None
    if folder is None and not (skip_bad and info.files):
        return DatasetSpec(name=info.name, version=info.version)
    sides = _files(info.family.read(data_dir, lambda _: None))
    findings = inspect(sides, log)
    skipped = tuple(map(stated, unusable(findings))) if skip_bad else ()
    if folder is None:
        left_out = f"-without-{_digest(skipped)[:8]}" if skipped else ""
        return DatasetSpec(name=info.name, version=info.version + left_out, skipped=skipped)
    kept = [side.without(frozenset(skipped)) for side in sides]
    contents = [[found[path].sha256 for path in side.paths] for side, found in zip(kept, findings, strict=True)]
    version = files_fingerprint(zip(kept, contents, strict=True))
    split = folder.split if isinstance(folder, ImageFolder) else HALF
    return DatasetSpec(name=info.name, version=version[:12], root=str(folder.root), split=split, skipped=skipped)


def prepare(spec: DatasetSpec, data_dir: Path | None, log: Log) -> None:
    """Make sure a dataset can be loaded before any cell starts: generate, fetch or verify it.

    Nothing is ever downloaded into a folder that the user gave (``--data-dir`` or ``DMLBENCH_DATA``).

    Raises:
        UserError: What is missing or damaged, and what to do next.
    """
    family = family_of(spec)
    family.prepare(data_dir, log)
    if spec.root is None and not dataset_info(spec.name).files:
        return  # it was generated or verified just now
    sides = _files(family.read(data_dir, log))
    check_counts(spec, sides)
    findings = inspect(sides, log)
    skipped = set(map(stated, spec.skipped))
    bad = {path: why for path, why in unusable(findings).items() if stated(path) not in skipped}
    if bad:
        listed = ", ".join(f"{path} ({why})" for path, why in islice(bad.items(), LISTED))
        more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        total = sum(len(side.paths) for side in sides)
        hint = f"replace them, or leave them out with --skip-bad; `dmlbench data check` lists all of {sides[0].root}"
        raise UserError(f"{spec.name}: {len(bad)} of {total} images cannot be used: {listed}{more}", hint=hint)
    if problem := too_little([side.without(frozenset(spec.skipped)) for side in sides]):
        raise UserError(f"{spec.name}: {sides[0].root}: {problem}")
    if spec.skipped:
        log(f"{spec.name}: {len(spec.skipped)} unusable images are left out ({some(list(spec.skipped))})")
    for both, where in (
        (on_both_sides(findings), "in train and in test"),
        (in_both_roles(sides[1], findings[1]), "in query and in gallery"),
    ):
        if both:
            found = f"{counted(len(both), 'image')} {inflected(len(both), 'is', 'are')}"
            log(f"{spec.name}: {found} {where} alike ({some(list(both[0]))})")


def check_exchangeable(spec: DatasetSpec, data_dir: Path | None) -> None:
    """Raise UserError where test classes cannot be exchanged with training classes, which have no gallery."""
    if _roles(family_of(spec).read(data_dir, lambda _: None)[1]):
        what = f"training.vary=split: {spec.name} tests queries on a gallery, and its training classes have neither"
        raise UserError(what, hint="vary init or order")


def too_little(sides: Sequence[LabelledFiles]) -> str:
    """Why nothing could be learned or measured on these sides; empty where it can."""
    train, test = sides
    if min(len(train.class_names), len(test.class_names)) < 2:
        counts = f"{len(train.class_names)} classes to train and {len(test.class_names)} to test"
        return f"leaves {counts}, and each side needs two"
    queries = len(test.labels) if test.queries is None else int(test.queries.sum())
    if test.lost_queries == queries:
        why = "no test class has two images" if test.queries is None else "no query's class is in the gallery"
        return f"{why}, so there is nothing to retrieve"
    return ""


def files_of(sides: tuple[Side, Side]) -> tuple[LabelledFiles, LabelledFiles] | None:
    """Both sides where they are files; None for images in memory."""
    train, test = sides
    return (train, test) if isinstance(train, LabelledFiles) and isinstance(test, LabelledFiles) else None


def not_ready(spec: DatasetSpec, data_dir: Path | None) -> str:
    """What a run would complain of or download; looks only, and decodes nothing. Empty where files are complete."""
    if spec.root is None and not dataset_info(spec.name).files:
        return ""
    try:
        check_counts(spec, family_of(spec).read(data_dir, lambda _: None))
    except UserError as error:
        return str(error)
    return ""


def check_counts(spec: DatasetSpec, sides: tuple[Side, Side]) -> None:
    """Compare a dataset of the catalogue with its published numbers, before anything is skipped; raises UserError."""
    if spec.root is not None:
        return
    info, found = dataset_info(spec.name), _counts(sides)
    if found != info.counts:
        what = f"expected {info.counts} training classes, test classes, training images, test images, found {found}"
        raise UserError(f"{info.name}: {what}", hint=f"obtain the release of {info.source}")
    if (roles := _roles(sides[1])) and roles[0] != info.query_images:
        what = f"expected {info.query_images} queries among the test images, found {roles[0]}"
        raise UserError(f"{info.name}: {what}", hint=f"obtain the release of {info.source}")


def tested(info: DatasetInfo, data_dir: Path | None, skipped: Sequence[str]) -> tuple[int, int, int]:
    """Test images, test classes and queries (0 where each image is one) of a dataset, without those that are skipped.

    As published where it is of the catalogue, which then need not be there; counted in a user's own images, and where
    some are skipped.
    """
    if info.version and not skipped:
        return info.test_images, info.test_classes, info.query_images
    test = info.family.read(data_dir, lambda _: None)[1]
    test = test.without(frozenset(skipped)) if isinstance(test, LabelledFiles) else test
    return len(test.labels), len(test.class_names), (_roles(test) or (0, 0))[0]


def trained(spec: DatasetSpec, info: DatasetInfo | None) -> tuple[int, int] | None:
    """Training classes and images of a dataset, before any is held out; None where only the data would tell.

    As published where it is of the catalogue; counted in a user's own images.
    """
    if spec.root is None:
        return (info.train_classes, info.train_images) if info and info.train_classes else None
    train = family_of(spec).read(None, lambda _: None)[0]
    train = train.without(frozenset(spec.skipped)) if isinstance(train, LabelledFiles) else train
    return len(train.class_names), len(train.labels)


def _counts(sides: tuple[Side, Side]) -> tuple[int, int, int, int]:
    train, test = sides
    return len(train.class_names), len(test.class_names), len(train.labels), len(test.labels)


def _roles(test: Side) -> tuple[int, int] | None:
    """Queries and gallery images of a test side; None where every image is both."""
    queries = test.queries if isinstance(test, LabelledFiles) else None
    return None if queries is None else (int(queries.sum()), int((~queries).sum()))


def _files(sides: tuple[Side, Side]) -> tuple[LabelledFiles, LabelledFiles]:
    found = files_of(sides)
    assert found is not None  # noqa: S101 - narrows the type: the catalogue says that it is a family of files
    return found


def _digest(paths: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()


SIDES = ("train", "test")


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        counts: Training classes, test classes, training images, test images.
        published: The same as published; None for a folder of the user's own.
        bad: Paths of images that cannot be used, and why.
        converted: Paths of images that become RGB, and from what.
        duplicates: Groups of paths of one content on both sides of the split.
        lost_queries: Test images that have nothing to find: alone in their class, or of a class the gallery lacks.
        fingerprint: Of labels and contents; empty where an image cannot be used.
        problem: What else a run would refuse; empty for nothing.
        roles: Queries and gallery images among the test images; None where every image is both.
        published_queries: The first of them as published; 0 for none.
        in_both_roles: Groups of paths of one content of which some are queries and some are in the gallery.
    """

    counts: tuple[int, int, int, int]
    published: tuple[int, int, int, int] | None
    bad: dict[str, str]
    converted: dict[str, str]
    duplicates: list[tuple[str, ...]]
    lost_queries: int
    fingerprint: str
    problem: str = ""
    roles: tuple[int, int] | None = None
    published_queries: int = 0
    in_both_roles: tuple[tuple[str, ...], ...] = ()

    @property
    def sound(self) -> bool:
        """Whether a run would take the dataset as it is."""
        queries = (self.roles or (0, 0))[0]
        as_published = self.published in (None, self.counts) and self.published_queries in (0, queries)
        return not self.bad and not self.problem and as_published


def check(info: DatasetInfo, data_dir: Path | None, log: Log) -> Checked:
    """Read, decode and compare all images of a dataset, whatever an earlier check found.

    Raises:
        UserError: the dataset is not there, or not in a known layout.
    """
    sides = info.family.read(data_dir, log)
    counts, published = _counts(sides), info.counts if info.version else None
    files = files_of(sides)
    if files is None:
        whole = fingerprint(*(side for side in sides if isinstance(side, LabelledImages)))
        singletons = int((np.bincount(sides[1].labels) == 1).sum())
        return Checked(counts, published, {}, {}, [], singletons, whole)
    findings = inspect(files, log, anew=True)
    bad = unusable(findings)
    digests = [[finding.sha256 for finding in side.values()] for side in findings]
    whole = "" if bad else files_fingerprint(zip(files, digests, strict=True))
    converted = {path: found.note for side in findings for path, found in side.items() if found.note}
    return Checked(
        counts, published, bad, converted, on_both_sides(findings), files[1].lost_queries, whole, too_little(files),
        _roles(files[1]), info.query_images, tuple(in_both_roles(files[1], findings[1])),
    )  # fmt: skip


def sizes(sides: tuple[Side, Side], log: Log) -> dict[str, dict[str, int | str]]:
    """For each side its classes, images, images a class, and widths and heights in pixels (least - median - most).

    Queries and gallery of a test side have rows of their own.
    """
    files = files_of(sides)
    findings = inspect(files, log) if files else [None, None]
    rows = {name: _sizes(side, found) for name, side, found in zip(SIDES, sides, findings, strict=True)}
    test = sides[1]
    if isinstance(test, LabelledFiles) and test.queries is not None:
        for name, chosen in (("query", test.queries), ("gallery", ~test.queries)):
            rows[name] = _sizes(test.at(np.flatnonzero(chosen).tolist()), findings[1])
    return rows


def _sizes(side: Side, findings: dict[str, Finding] | None) -> dict[str, int | str]:
    per_class = np.unique(side.labels, return_counts=True)[1]
    row: dict[str, int | str] = {"classes": len(per_class), "images": len(side.labels)}
    row["images a class"] = _range(per_class)
    if isinstance(side, LabelledImages):
        height, width = side.images.shape[-2:]
        return row | {"width": str(width), "height": str(height)}
    own = [findings[path] for path in side.paths] if findings else []
    usable = [found for found in own if not found.problem]
    return row | {"width": _range([f.width for f in usable]), "height": _range([f.height for f in usable])}


def _range(values: Sequence[int] | np.ndarray) -> str:
    if not len(values):
        return "-"
    low, middle, high = int(np.min(values)), int(np.median(values)), int(np.max(values))
    return str(low) if low == high else f"{low} - {middle} - {high}"
