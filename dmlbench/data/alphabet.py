"""Invented alphabets: the skeletons of the characters that `glyphs` draws.

Only raw Philox bits and + - * / sqrt on float64 are used, elementwise: NumPy keeps the bits stable between versions
(not `Generator`'s methods), and IEEE 754 rounds the operations alike everywhere (not sine, exp or a reduction).
A stroke is a cubic Bezier curve, (4, 2) control points in a unit box, x to the right, y down.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

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
        count = 1
        for length in shape:
            count *= length
        raw = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
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
