"""`glyphs`: the embedded dataset of handwriting-like characters of invented alphabets.

100 training and 100 test classes of 20 drawings, from alphabets of one kind; made in seconds, the same to the last
bit on every machine, and kept in the user's cache folder. A character is a skeleton of strokes, each a cubic Bezier
curve of (4, 2) control points in a unit box, x to the right, y down; a drawing is a jittered instance of it, rendered
with an anti-aliased round pen. Changing a constant here makes another dataset: raise `VERSION` and pin the new
`SHA256`, which the error of the first use states.

Only raw Philox bits and + - * / sqrt on float64 are used, elementwise: NumPy keeps the bits stable between versions
(not `Generator`'s methods), and IEEE 754 rounds the operations alike everywhere (not sine, exp or a reduction).
"""

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dmlbench.atomic import replacing
from dmlbench.data.family import LabelledImages, Log, cache_dir
from dmlbench.errors import UserError

Floats = NDArray[np.float64]
Character = Floats  # (strokes, 4, 2)

COLUMNS = (0.18, 0.5, 0.82)
ROWS = (0.12, 0.37, 0.63, 0.88)
ANCHOR_NOISE = 0.05
FAMILY_SIZES = (3, 3, 2, 1, 1)  # characters that share all strokes but one; an alphabet has their sum
MAX_STROKES = 4
SIBLING_DISTANCE = 0.18  # Hausdorff distance of two skeletons at least, box units: about 3.5 of 28 pixels
SHORTEST_STROKE = 0.3
SMALLEST = 0.75  # longer side of a character, box units
STROKE_DISTANCE = 0.16  # what some point of a stroke keeps from the strokes before it
ATTACHED = 0.75  # share of strokes that start on an earlier one
LINES, ARCS, WAVES = 0.42, 0.36, 0.1  # the rest are loops


class Draws:
    """Independent uniforms from one of Philox's streams."""

    def __init__(self, purpose: int) -> None:
        self._bits = np.random.Philox(key=purpose)

    def uniform(self, *shape: int) -> Floats:
        """Uniform in [0, 1)."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape)), dtype=np.uint64)
        return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def bell(self, *shape: int) -> Floats:
        """Mean 0, standard deviation 1, within +-3: three uniforms, because a normal needs a logarithm."""
        return 2.0 * (self.uniform(*shape) + self.uniform(*shape) + self.uniform(*shape) - 1.5)

    def index(self, length: int) -> int:
        """Uniform index below `length`."""
        return int(self.uniform(1)[0] * length)


def alphabets(count: int, draws: Draws) -> list[Character]:
    """Characters of `count` alphabets, in order; no two skeletons are closer than `SIBLING_DISTANCE`."""
    characters: list[Character] = []
    for _ in range(count):
        for size in FAMILY_SIZES:
            founder = _add_distinct(characters, partial(_founder, draws))
            for _ in range(size - 1):
                _add_distinct(characters, partial(_sibling, founder, draws))
    return characters


def curve_points(strokes: Floats, times: Floats) -> Floats:
    """Points of cubic Bezier curves, (..., 4, 2) at times (..., P), as (..., P, 2); times beyond [0, 1] extrapolate."""
    t = times[..., None]
    rest = 1.0 - t
    start, first, second, end = (strokes[..., index : index + 1, :] for index in range(4))
    return rest * rest * rest * start + 3.0 * rest * t * (rest * first + t * second) + t * t * t * end


def _add_distinct(characters: list[Character], propose: Callable[[], Character]) -> Character:
    """Append and return the first proposal that is far enough from all characters so far."""
    outlines = np.stack([_padded_outline(character) for character in characters]) if characters else None
    while True:
        proposal = propose()
        if outlines is None or _hausdorff(_padded_outline(proposal), outlines).min() >= SIBLING_DISTANCE:
            characters.append(proposal)
            return proposal


def _founder(draws: Draws) -> Character:
    """Two to four strokes, most of them starting on an earlier one."""
    strokes: list[Floats] = []
    for _ in range(2 + draws.index(3)):
        strokes.append(_new_stroke(strokes, draws))
    return _centred(np.stack(strokes))


def _sibling(founder: Character, draws: Draws) -> Character:
    """The founder with one stroke more, less, or a different one."""
    strokes = list(founder)
    change = draws.uniform(1)[0]
    if change < 0.4 and len(strokes) < MAX_STROKES:
        strokes.append(_new_stroke(strokes, draws))
    else:
        strokes.pop(draws.index(len(strokes)))
        if change < 0.8 or len(strokes) < 2:
            strokes.append(_new_stroke(strokes, draws))
    return _centred(np.stack(strokes))


def _new_stroke(strokes: list[Floats], draws: Draws) -> Floats:
    """A stroke that leaves the others by a visible distance."""
    while True:
        stroke = _stroke(_start(strokes, draws), draws)
        points = _outline(stroke[None])
        inside = bool((points > 0.0).all() and (points < 1.0).all())
        if inside and (not strokes or _leaves(points, _outline(np.stack(strokes)))):
            return stroke


def _start(strokes: list[Floats], draws: Draws) -> Floats:
    """The beginning, middle or end of an earlier stroke, or a free anchor."""
    if strokes and draws.uniform(1)[0] < ATTACHED:
        stroke = strokes[draws.index(len(strokes))]
        point: Floats = curve_points(stroke, np.array([(0.0, 0.5, 1.0)[draws.index(3)]]))[0]
        return point
    return _anchor(draws)


def _anchor(draws: Draws) -> Floats:
    position = np.array([COLUMNS[draws.index(len(COLUMNS))], ROWS[draws.index(len(ROWS))]])
    return position + ANCHOR_NOISE * draws.bell(2)


def _stroke(start: Floats, draws: Draws) -> Floats:
    """A line, arc, wave or loop from `start` to an anchor at least `SHORTEST_STROKE` away (a loop returns)."""
    end = _anchor(draws)
    while _length(end - start) < SHORTEST_STROKE:
        end = _anchor(draws)
    along = end - start
    across = np.array([-along[1], along[0]])
    side = 1.0 if draws.uniform(1)[0] < 0.5 else -1.0
    bend = side * (0.3 + 0.5 * draws.uniform(1)[0])
    kind = draws.uniform(1)[0]
    if kind < LINES:
        first, second = along / 3.0, along * (2.0 / 3.0)
    elif kind < LINES + ARCS:
        first, second = along * 0.25 + bend * across, along * 0.75 + bend * across
    elif kind < LINES + ARCS + WAVES:
        first, second = along * 0.3 + bend * across, along * 0.7 - bend * across
    else:
        first, second, end = along + bend * across, along - bend * across, start
    return np.stack((start, start + first, start + second, end))


def _centred(character: Character) -> Character:
    """Moved to the middle of the box; a small one is enlarged until its longer side is `SMALLEST`."""
    points = _outline(character)
    lowest, highest = points.min(axis=0), points.max(axis=0)
    longer = max(float(highest[0] - lowest[0]), float(highest[1] - lowest[1]))
    centred: Floats = character - (lowest + highest) / 2.0
    return 0.5 + centred * max(1.0, SMALLEST / longer)


def _outline(strokes: Floats) -> Floats:
    """Sample points of (S, 4, 2) strokes, (8 S, 2)."""
    times = np.arange(8) / 7.0
    return curve_points(strokes, times[None]).reshape(-1, 2)


def _padded_outline(character: Character) -> Floats:
    """The outline with points repeated to one length for all characters, which no set distance notices."""
    return np.resize(_outline(character), (8 * MAX_STROKES, 2))


def _hausdorff(points: Floats, others: Floats) -> Floats:
    """Distances of one set of points (P, 2) to each of others (K, P, 2), (K,)."""
    squares = _squared_distances(points, others)
    distances: Floats = np.sqrt(np.maximum(squares.min(axis=2).max(axis=1), squares.min(axis=1).max(axis=1)))
    return distances


def _leaves(points: Floats, others: Floats) -> bool:
    return float(np.sqrt(_squared_distances(points, others).min(axis=1).max())) >= STROKE_DISTANCE


def _squared_distances(points: Floats, others: Floats) -> Floats:
    """(..., P, Q) from points (P, 2) and others (..., Q, 2)."""
    x, y = (points[:, None, axis] - others[..., None, :, axis] for axis in (0, 1))
    return x * x + y * y


def _length(vector: Floats) -> float:
    return float(np.sqrt(vector[0] * vector[0] + vector[1] * vector[1]))


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
            with replacing(path) as file:
                np.savez_compressed(file, images=images)
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
        what = f"glyphs: version {VERSION} is sha256 {SHA256}, this machine draws {_sha256(images)}"
        raise UserError(what, hint="results would not be comparable; please report the platform and the NumPy version")
    return images


def _sha256(images: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


SIZE = 28  # pixels
BOX = 19.0  # pixels of the skeleton's unit box
PIECES = 10  # straight pieces of a stroke

# Jitter of an instance: standard deviations. More of any makes retrieval harder.
CONTROL_NOISE = 0.05  # of each control point, box units: strokes wobble and joints come apart
STROKE_SHIFT = 0.03  # of a whole stroke, box units
WARP = 0.06  # of a smooth quadratic distortion at the box's edge, box units
END_NOISE = 0.07  # of a stroke's ends, drawn too short or too long, as a fraction of the stroke
ROTATION = 0.12  # radians, for small angles
SLANT = 0.18  # horizontal shift per unit of height
SCALE = 0.1  # of size, for width and height apart
TRANSLATION = 1.1  # pixels
PEN_WIDTH = 1.7  # mean, pixels
PEN_NOISE = 0.3  # pixels
THINNEST_PEN = 1.0  # pixels


def draw(character: Character, instances: int, draws: Draws) -> NDArray[np.uint8]:
    """Instances of one character, uint8 (instances, SIZE, SIZE), ink 255 on 0."""
    strokes = character + CONTROL_NOISE * draws.bell(instances, *character.shape)
    strokes = strokes + STROKE_SHIFT * draws.bell(instances, len(character), 1, 2)
    overshoot = END_NOISE * draws.bell(instances, len(character), 2, 1)
    steps = np.arange(PIECES + 1) / PIECES
    times = -overshoot[:, :, 0] + (1.0 + overshoot[:, :, 0] + overshoot[:, :, 1]) * steps
    points = _placed(_warped(curve_points(strokes, times), draws), draws)
    widths = np.maximum(PEN_WIDTH + PEN_NOISE * draws.bell(instances), THINNEST_PEN)
    return np.stack([_ink(image, float(width)) for image, width in zip(points, widths, strict=True)])


def _warped(points: Floats, draws: Draws) -> Floats:
    """Bend (I, S, P, 2) points in box units by a random quadratic of the instance, so that strokes move together."""
    about = 2.0 * points - 1.0
    x, y = about[..., :1], about[..., 1:]
    weights = WARP * draws.bell(len(points), 3, 1, 1, 2)
    return points + weights[:, 0] * x * x + weights[:, 1] * x * y + weights[:, 2] * y * y


def _placed(points: Floats, draws: Draws) -> Floats:
    """Box units to pixels: scale, slant, rotate about the centre, translate."""
    count = len(points)
    factors = BOX * (1.0 + SCALE * draws.bell(count, 2))
    slant = SLANT * draws.bell(count, 1, 1)
    half = ROTATION / 2.0 * draws.bell(count, 1, 1)  # tan(angle / 2): a rotation without sine and cosine
    cosine, sine = (1.0 - half * half) / (1.0 + half * half), 2.0 * half / (1.0 + half * half)
    y = (points[..., 1] - 0.5) * factors[:, 1, None, None]
    x = (points[..., 0] - 0.5) * factors[:, 0, None, None] - slant * y
    shift = SIZE / 2.0 + TRANSLATION * draws.bell(count, 2)
    return np.stack(
        (cosine * x - sine * y + shift[:, 0, None, None], sine * x + cosine * y + shift[:, 1, None, None]),
        axis=-1,
    )


def _ink(lines: Floats, width: float) -> NDArray[np.uint8]:
    """Render (S, P, 2) polylines in pixels: full ink within the pen's radius, fading over one pixel."""
    start, end = lines[:, :-1].reshape(-1, 2), lines[:, 1:].reshape(-1, 2)
    along = end - start
    squared = np.maximum(along[:, 0] * along[:, 0] + along[:, 1] * along[:, 1], 1e-12)
    centres = np.arange(SIZE) + 0.5
    x = centres[None, :, None] - start[:, 0]
    y = centres[:, None, None] - start[:, 1]
    nearest = np.clip((x * along[:, 0] + y * along[:, 1]) / squared, 0.0, 1.0)
    x, y = x - nearest * along[:, 0], y - nearest * along[:, 1]
    distance = np.sqrt((x * x + y * y).min(axis=-1))
    drawn: NDArray[np.uint8] = np.rint(255.0 * np.clip(width / 2.0 + 0.5 - distance, 0.0, 1.0)).astype(np.uint8)
    return drawn
