"""Training augmentation as pure functions of images and a table of uniforms.

No function here draws a random number: each image's row of uniforms, drawn by its position in the epoch, decides
what happens to it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from dmlbench.data.geometry import EvaluationView, Images, chosen, evaluation_images, resized_crop
from dmlbench.spec import InputSpec

CROP_TRIES = 10
SOURCE_BYTES = 2 << 30

_UNIFORMS = {"affine": 4, "crop": 2 * CROP_TRIES + 3, "none": 0}


def uniforms_per_image(spec: InputSpec) -> int:
    """Columns of the table of uniforms that `augment` reads."""
    return _UNIFORMS[spec.augmentation]


def training_source(images: Images, spec: InputSpec) -> Images:
    """What `augment` starts from: crops need the full images, all else only the evaluation geometry's result.

    Args:
        images: Any.
        spec: Geometry and augmentation.

    Returns:
        The images unchanged for "crop", else uint8 (channels, size, size) each, made ahead where they are small.
    """
    if spec.augmentation == "crop":
        return images
    small = len(images) * spec.channels * spec.size**2 <= SOURCE_BYTES
    return evaluation_images(images, spec) if small else EvaluationView(images, spec)


def augment(source: Images, indices: NDArray[np.int64], uniforms: NDArray[np.float64], spec: InputSpec) -> Tensor:
    """A training batch, not yet normalised.

    Args:
        source: What `training_source` gave.
        indices: (B,) positions in it.
        uniforms: (B, `uniforms_per_image`) in [0, 1).
        spec: Geometry and augmentation.

    Returns:
        (B, channels, size, size): uint8, or for "affine" float32 in [0, 1].
    """
    if spec.augmentation == "crop":
        return torch.stack(
            [resized_crop(crop, spec, mirrored=flip) for crop, flip in crops(source, indices, uniforms, spec)]
        )
    batch = chosen(source, indices)
    return affine(batch.to(torch.float32) / 255, uniforms, spec) if spec.augmentation == "affine" else batch


def crops(
    images: Images, indices: NDArray[np.int64], uniforms: NDArray[np.float64], spec: InputSpec
) -> list[tuple[Tensor, bool]]:
    """A batch's random crops, uint8 (C, h, w) before any resizing, and whether each is to be mirrored."""
    full = [images[index] for index in indices.tolist()]
    sizes = np.array([image.shape[-2:] for image in full])
    boxes = crop_boxes(uniforms[:, :-1], sizes[:, 0], sizes[:, 1], spec).tolist()
    mirrored = (spec.flip & (uniforms[:, -1] < 0.5)).tolist()
    return [
        (image[:, top : top + tall, left : left + wide], flip)
        for image, (top, left, tall, wide), flip in zip(full, boxes, mirrored, strict=True)
    ]


def affine(images: Tensor, uniforms: NDArray[np.float64], spec: InputSpec) -> Tensor:
    """Rotate, translate and scale about the centre: one bilinear sampling, zeros from outside.

    Args:
        images: float32 (B, C, H, W).
        uniforms: (B, 4): angle, horizontal and vertical shift, scale factor.
        spec: `rotation` (degrees, either way), `translation` (fraction of the side, either way), `scale`.

    Returns:
        float32 (B, C, H, W).
    """
    height, width = images.shape[-2:]
    angle = np.deg2rad(spec.rotation) * (2 * uniforms[:, 0] - 1)
    shift_x, shift_y = spec.translation * (2 * uniforms[:, 1:3] - 1).T * np.array([[width], [height]])
    factor = spec.scale[0] + (spec.scale[1] - spec.scale[0]) * uniforms[:, 3]
    cosine, sine, shift_x, shift_y = (
        torch.from_numpy(values.astype(np.float32))[:, None, None]
        for values in (np.cos(angle) / factor, np.sin(angle) / factor, shift_x, shift_y)
    )
    # The grid says where each output pixel comes from, so it is the inverse map, in pixels about the centre.
    x = torch.arange(width, dtype=torch.float32) - (width - 1) / 2 - shift_x
    y = (torch.arange(height, dtype=torch.float32) - (height - 1) / 2)[:, None] - shift_y
    source_x = (cosine * x + sine * y) * (2 / width)
    source_y = (cosine * y - sine * x) * (2 / height)
    grid = torch.stack((source_x, source_y), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def crop_boxes(
    uniforms: NDArray[np.float64], heights: NDArray[np.int64], widths: NDArray[np.int64], spec: InputSpec
) -> NDArray[np.int64]:
    """Boxes as torchvision's RandomResizedCrop draws them, from given uniforms.

    Up to `CROP_TRIES` times an area and a log-uniform aspect ratio; the first box that fits is placed uniformly.
    If none fits, the central crop of the nearest admissible ratio.

    Args:
        uniforms: (B, 22): an area and a ratio for each try, then the vertical and horizontal place.
        heights: (B,) heights of the images in pixels.
        widths: (B,) widths in pixels.
        spec: `crop_scale` (fractions of the area) and `crop_ratio` (width / height).

    Returns:
        (B, 4) int64: top, left, height, width.
    """
    tries = uniforms[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2)
    low, high = spec.crop_scale
    area = (heights * widths)[:, None] * (low + (high - low) * tries[..., 0])
    log_low, log_high = np.log(spec.crop_ratio)
    ratio = np.exp(log_low + (log_high - log_low) * tries[..., 1])
    wide, tall = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (wide > 0) & (wide <= widths[:, None]) & (tall > 0) & (tall <= heights[:, None])
    first = (np.arange(len(fits)), fits.argmax(axis=1))
    place_y, place_x = uniforms[:, -2], uniforms[:, -1]
    top = np.floor(place_y * (heights - tall[first] + 1))
    left = np.floor(place_x * (widths - wide[first] + 1))
    boxes = np.stack((top, left, tall[first], wide[first]), axis=1)
    for row in np.flatnonzero(~fits.any(axis=1)):
        boxes[row] = _central_box(int(heights[row]), int(widths[row]), spec)
    return boxes.astype(np.int64)


def _central_box(height: int, width: int, spec: InputSpec) -> tuple[int, int, int, int]:
    """The largest central box whose ratio is admissible, as (top, left, height, width)."""
    lowest, highest = spec.crop_ratio
    tall, wide = height, width
    if width / height < lowest:
        tall = round(width / lowest)
    elif width / height > highest:
        wide = round(height * highest)
    return (height - tall) // 2, (width - wide) // 2, tall, wide
