"""Handwriting: many jittered instances of a character's skeleton, rendered with an anti-aliased round pen.

As in `alphabet`, only elementwise IEEE operations, so that the pixels are the same on every platform.
"""

import numpy as np
from numpy.typing import NDArray

from dmlbench.data.alphabet import Character, Draws, Floats, curve_points

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
    return np.rint(255.0 * np.clip(width / 2.0 + 0.5 - distance, 0.0, 1.0)).astype(np.uint8)
