"""Decodes every image of a dataset once: what it is, whether it can be used, and the checksum of its file.

The verdicts are kept in the cache folder and hold for a file as long as its size and times of change do.
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import PIL
from PIL import Image

from dmlbench.atomic import write_atomically
from dmlbench.data.family import LabelledFiles, Log, cache_dir
from dmlbench.errors import UserError, counted
from dmlbench.machine import usable_cores

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
    """One image file.

    Attributes:
        sha256: Of the file.
        width: In pixels, 0 where it is unknown.
        height: Likewise.
        mode: PIL's name for its pixels.
        problem: Why it cannot be used; empty where it can.
    """

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
    """Look at every file of a split's sides.

    Args:
        sides: Training and test files, of one root.
        log: Takes lines of progress where files have to be decoded.
        anew: Decode also what an earlier inspection knows.

    Returns:
        For each side its findings by path, in order.
    """
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
        content = path.read_bytes()
    except OSError as error:
        return Finding("", 0, 0, "", f"cannot be read ({error.strerror})")
    sha256 = hashlib.sha256(content).hexdigest()
    if not content:
        return Finding(sha256, 0, 0, "", "empty file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height, mode, deep = image.width, image.height, image.mode, _is_deep(image)
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
    by_content: list[dict[str, list[str]]] = [{}, {}]
    for side, found in zip(by_content, findings, strict=True):
        for path, finding in found.items():
            if not finding.problem:
                side.setdefault(finding.sha256, []).append(path)
    train, test = by_content
    return [tuple(train[content] + test[content]) for content in train if content in test]


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


def _is_deep(image: Image.Image) -> bool:
    """Whether a file's pixels have 16 bits a channel, of which PIL gives those in colour as if they had eight.

    The mode of a file as it is, such as `RGB;16B`, is an argument of its decoder.
    """
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


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
