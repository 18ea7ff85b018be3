"""Image geometry and augmentation as pure functions of a batch and a table of uniforms.

No function here draws a random number: each image's row of uniforms, drawn by its position in the epoch, decides
what happens to it. Every output pixel is computed from its own image alone and without a parallel reduction, so
neither batch size, threads nor workers change a bit.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from dmlbench.spec import InputSpec

CROP_TRIES = 10
CHUNK_IMAGES = 256
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601

_UNIFORMS = {"affine": 4, "crop": 2 * CROP_TRIES + 3, "none": 0}


def uniforms_per_image(spec: InputSpec) -> int:
    """Columns of the table of uniforms that `augment` reads."""
    return _UNIFORMS[spec.augmentation]


def training_source(images: Tensor, spec: InputSpec) -> Tensor:
    """What `augment` starts from: crops need the full images, all else only the evaluation geometry's result.

    Args:
        images: uint8 (N, C, H, W).
        spec: Geometry and augmentation.

    Returns:
        The images unchanged for "crop", else float32 (N, channels, size, size) in [0, 1].
    """
    return images if spec.augmentation == "crop" else evaluation_geometry(images, spec)


def augment(source: Tensor, uniforms: NDArray[np.float64], spec: InputSpec) -> Tensor:
    """A training batch.

    Args:
        source: (B, ...) rows of `training_source`.
        uniforms: (B, `uniforms_per_image`) in [0, 1).
        spec: Geometry, augmentation and normalisation.

    Returns:
        float32 (B, channels, size, size), normalised.
    """
    if spec.augmentation == "affine":
        return normalise(affine(source, uniforms, spec), spec)
    if spec.augmentation == "crop":
        return normalise(random_resized_crop(source, uniforms, spec), spec)
    return normalise(source, spec)


def evaluation_geometry(images: Tensor, spec: InputSpec) -> Tensor:
    """Resize the shorter side to `resize` (bilinear, antialiased), crop the central `size`, adapt channels.

    Args:
        images: uint8 (N, C, H, W).
        spec: `resize`, `size` and `channels`.

    Returns:
        float32 (N, channels, size, size) in [0, 1], not yet normalised.
    """
    chunks = [
        adapt_channels(_centre_crop(_resize_shorter(_as_float(chunk), spec.resize), spec.size), spec.channels)
        for chunk in images.split(CHUNK_IMAGES)  # in pieces: a whole float copy can be many gigabytes
    ]
    return torch.cat(chunks)


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


def random_resized_crop(images: Tensor, uniforms: NDArray[np.float64], spec: InputSpec) -> Tensor:
    """Crop a random area and aspect ratio, resize it to `size` (bilinear, antialiased), perhaps mirror it.

    Args:
        images: uint8 (B, C, H, W).
        uniforms: (B, 23): those of `crop_boxes`, then one for the mirroring.
        spec: `size`, `crop_scale`, `crop_ratio`, `flip` and `channels`.

    Returns:
        float32 (B, channels, size, size) in [0, 1].
    """
    height, width = images.shape[-2:]
    boxes = crop_boxes(uniforms[:, :-1], height, width, spec)
    mirrored = spec.flip & (uniforms[:, -1] < 0.5)
    crops = [
        _resized(_as_float(image[None, :, top : top + tall, left : left + wide]), spec.size, spec.size)
        for image, (top, left, tall, wide) in zip(images, boxes.tolist(), strict=True)
    ]
    batch = torch.cat([crop.flip(-1) if flip else crop for crop, flip in zip(crops, mirrored, strict=True)])
    return adapt_channels(batch, spec.channels)


def crop_boxes(uniforms: NDArray[np.float64], height: int, width: int, spec: InputSpec) -> NDArray[np.int64]:
    """Boxes as torchvision's RandomResizedCrop draws them, from given uniforms.

    Up to `CROP_TRIES` times an area and a log-uniform aspect ratio; the first box that fits is placed uniformly.
    If none fits, the central crop of the nearest admissible ratio.

    Args:
        uniforms: (B, 22): an area and a ratio for each try, then the vertical and horizontal place.
        height: Image height in pixels.
        width: Image width in pixels.
        spec: `crop_scale` (fractions of the area) and `crop_ratio` (width / height).

    Returns:
        (B, 4) int64: top, left, height, width.
    """
    tries = uniforms[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2)
    low, high = spec.crop_scale
    area = height * width * (low + (high - low) * tries[..., 0])
    log_low, log_high = np.log(spec.crop_ratio)
    ratio = np.exp(log_low + (log_high - log_low) * tries[..., 1])
    wide, tall = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = (np.arange(len(fits)), fits.argmax(axis=1))
    place_y, place_x = uniforms[:, -2], uniforms[:, -1]
    top = np.floor(place_y * (height - tall[first] + 1))
    left = np.floor(place_x * (width - wide[first] + 1))
    boxes = np.stack((top, left, tall[first], wide[first]), axis=1)
    return np.where(fits.any(axis=1)[:, None], boxes, _central_box(height, width, spec)).astype(np.int64)


def adapt_channels(images: Tensor, channels: int) -> Tensor:
    """Grey to three channels by repetition, RGB to grey by luminance; (N, C, H, W) to (N, channels, H, W)."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    red, green, blue = images.unbind(1)
    return (LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue)[:, None]


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """``(images - mean) / std`` per channel; float32 (B, channels, H, W), contiguous."""
    mean = torch.tensor(spec.mean)[:, None, None]
    std = torch.tensor(spec.std)[:, None, None]
    return (images - mean) / std


def _as_float(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255


def _resize_shorter(images: Tensor, shorter: int) -> Tensor:
    height, width = images.shape[-2:]
    if height <= width:
        return _resized(images, shorter, int(shorter * width / height))
    return _resized(images, int(shorter * height / width), shorter)


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)


def _centre_crop(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return images[..., top : top + size, left : left + size]


def _central_box(height: int, width: int, spec: InputSpec) -> NDArray[np.int64]:
    """The largest central box whose ratio is admissible, as (top, left, height, width)."""
    lowest, highest = spec.crop_ratio
    tall, wide = height, width
    if width / height < lowest:
        tall = round(width / lowest)
    elif width / height > highest:
        wide = round(height * highest)
    return np.array([(height - tall) // 2, (width - wide) // 2, tall, wide], dtype=np.int64)
