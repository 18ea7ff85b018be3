"""Sizes and channels of images, in 8 bits, as PIL and the published code keep them between transforms; augmentation.

Every output pixel is computed from its own image alone, so neither batch size, threads nor workers change a bit. No
function draws a random number: each image's row of uniforms, drawn by its position in the epoch, decides.

Random crops can be resized on the device, in one batched operation. Geometry and filter are those of `resized_crop`,
which rounds to 8 bits after each of its two passes; on the device both are matrix products in float32 and one rounding
follows, so a pixel may differ by one grey level.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812 - the field's name for it

from dmlbench.errors import UserError, unknown_name
from dmlbench.specs.protocol_spec import InputSpec

CHUNK_IMAGES = 256
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Images(Protocol):
    """Images by position, uint8 (C, H, W) each: a tensor of equal ones, or files decoded when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


def evaluation_geometry(images: Tensor, spec: InputSpec) -> Tensor:
    """Resize the shorter side to `resize` (antialiased), crop the central `size`, adapt channels.

    From uint8 (..., C, H, W) to uint8 (..., channels, size, size).
    """
    resized = F.resize(images, [spec.resize], InterpolationMode(spec.interpolation), antialias=True)
    return adapt_channels(F.center_crop(resized, [spec.size, spec.size]), spec.channels)


def evaluation_images(images: Images, spec: InputSpec) -> Tensor:
    """All of `images` in evaluation geometry, uint8 (N, channels, size, size)."""
    if isinstance(images, Tensor):
        return torch.cat([evaluation_geometry(chunk, spec) for chunk in images.split(CHUNK_IMAGES)])
    return torch.stack([evaluation_geometry(images[index], spec) for index in range(len(images))])


@dataclass(frozen=True)
class EvaluationView(Dataset[Tensor]):
    """Images in evaluation geometry, uint8 (channels, size, size), each made when asked for."""

    images: Images
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return evaluation_geometry(self.images[index], self.spec)


def resized_crop(crop: Tensor, spec: InputSpec, *, mirrored: bool) -> Tensor:
    """Resize a crop, uint8 (C, h, w), to uint8 (channels, size, size) (antialiased); perhaps mirror it."""
    resized = F.resize(crop, [spec.size, spec.size], InterpolationMode(spec.interpolation), antialias=True)
    return adapt_channels(resized.flip(-1) if mirrored else resized, spec.channels)


def chosen(images: Images, indices: NDArray[np.int64]) -> Tensor:
    """Equal images at `indices` (B,), as uint8 (B, C, H, W)."""
    if isinstance(images, Tensor):
        return images[torch.from_numpy(indices)]
    return torch.stack([images[index] for index in indices.tolist()])


def adapt_channels(images: Tensor, channels: int) -> Tensor:
    """Grey to three channels by repetition, RGB to grey by luminance; uint8 (..., C, H, W) in, the same out."""
    if images.shape[-3] == channels:
        return images
    if channels == 3:
        return images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    red, green, blue = images.to(torch.float32).unbind(-3)
    grey = LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue
    return grey.round().to(torch.uint8).unsqueeze(-3)


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """What a network takes: ``(x - mean) / std`` per channel, float32, of uint8 or of float32 x in [0, 1]."""
    mean, std = (_per_channel(values, images.device) for values in (spec.mean, spec.std))
    # In place where the memory is our own: fresh pages for every step cost more than the arithmetic.
    scaled = images.clone() if images.is_floating_point() else images.to(torch.float32).div_(255)
    return scaled.sub_(mean).div_(std)


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(channels, 1, 1) on a device, made once: a copy to a GPU for every batch would make the host wait."""
    return torch.tensor(values, device=device)[:, None, None]


CROP_TRIES = 10
SOURCE_BYTES = 2 << 30

_UNIFORMS = {"affine": 4, "crop": 2 * CROP_TRIES + 3, "none": 0, "transforms": 1}


def uniforms_per_image(spec: InputSpec) -> int:
    """Columns of the table of uniforms that `augment` reads."""
    return _UNIFORMS[spec.augmentation]


def training_source(images: Images, spec: InputSpec) -> Images:
    """What `augment` starts from: full images, or for "affine" and "none" the evaluation geometry's, ahead if small."""
    if spec.augmentation in ("crop", "transforms"):
        return images
    small = len(images) * spec.channels * spec.size**2 <= SOURCE_BYTES
    return evaluation_images(images, spec) if small else EvaluationView(images, spec)


def augment(source: Images, indices: NDArray[np.int64], uniforms: NDArray[np.float64], spec: InputSpec) -> Tensor:
    """A training batch, not yet normalised: (B, channels, size, size), uint8, or for "affine" float32 in [0, 1].

    For "transforms" it is one or the other.

    Args:
        source: What `training_source` gave.
        indices: (B,) positions in it.
        uniforms: (B, `uniforms_per_image`) in [0, 1).
        spec: Geometry and augmentation.
    """
    if spec.augmentation == "crop":
        return torch.stack(
            [resized_crop(crop, spec, mirrored=flip) for crop, flip in crops(source, indices, uniforms, spec)]
        )
    if spec.augmentation == "transforms":
        return transformed(source, indices, uniforms, spec)
    batch = chosen(source, indices)
    return affine(batch.to(torch.float32) / 255, uniforms, spec) if spec.augmentation == "affine" else batch


def transformed(images: Images, indices: NDArray[np.int64], uniforms: NDArray[np.float64], spec: InputSpec) -> Tensor:
    """A batch through the protocol's `transforms`, each image under a seed of its own: (B, channels, size, size).

    Raises:
        UserError: where a transform fails, or they give another shape, or neither uint8 nor float32.
    """
    pipeline, changed = transforms(spec), []
    with torch.random.fork_rng(devices=[]):
        for index, seed in zip(indices.tolist(), (uniforms[:, 0] * 2**53).astype(np.int64).tolist(), strict=True):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: a GPU's stream is the training's
            changed.append(_through(pipeline, images[index], spec))
    return torch.stack(changed)


def _through(pipeline: v2.Transform, image: Tensor, spec: InputSpec) -> Tensor:
    try:
        changed: Tensor = pipeline(adapt_channels(image, spec.channels))
    except Exception as error:  # whatever a transform raises
        raise UserError(f"input.transforms: fail on an image ({str(error).splitlines()[0]})") from error
    expected = (spec.channels, spec.size, spec.size)
    fits = isinstance(changed, Tensor) and changed.dtype in (torch.uint8, torch.float32)
    if not fits or changed.shape != expected:
        tensor = isinstance(changed, Tensor)
        given = f"{changed.dtype} {tuple(changed.shape)}" if tensor else f"a {type(changed).__name__}"
        raise UserError(f"input.transforms: must give uint8 or float32 {expected}, and give {given}")
    return changed


def check_transforms(spec: InputSpec) -> None:
    """Run the protocol's `transforms` once, on a large image of noise; raises UserError as `transformed` does."""
    with torch.random.fork_rng(devices=[]):
        side = max(1024, 2 * spec.resize)
        _through(transforms(spec), torch.randint(256, (spec.channels, side, side), dtype=torch.uint8), spec)


def transforms(spec: InputSpec) -> v2.Transform:
    """The protocol's `transforms` as one, built of torchvision.transforms.v2.

    Raises:
        UserError: for a name that torchvision does not have, or arguments that it does not take.
    """
    return v2.Compose([_transform(name, given) for item in spec.transforms for name, given in item.items()])


def _transform(name: str, given: Mapping[str, Any]) -> v2.Transform:
    """A transform by its class's name; `interpolation` and `dtype` are words, `transforms` are others, given alike."""
    known = {key for key, value in vars(v2).items() if isinstance(value, type) and issubclass(value, v2.Transform)}
    known -= {"Transform", "Lambda"}  # a function is no data
    if name not in known:
        raise unknown_name("transform", name, sorted(known), where="input.transforms")
    arguments = dict(given)
    try:
        if "interpolation" in arguments:
            arguments["interpolation"] = InterpolationMode(arguments["interpolation"])
        if "dtype" in arguments:
            arguments["dtype"] = getattr(torch, str(arguments["dtype"]))
        if "transforms" in arguments:
            arguments["transforms"] = [_transform(*own) for item in arguments["transforms"] for own in item.items()]
        built: v2.Transform = getattr(v2, name)(**arguments)
    except (TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"input.transforms: {name} does not take {dict(given)} ({reason})") from error
    return built


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
    """Rotate, translate and scale float32 (B, C, H, W) about the centre: one bilinear sampling, zeros from outside.

    The columns of `uniforms` are angle, horizontal and vertical shift, and scale factor.
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
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def crop_boxes(
    uniforms: NDArray[np.float64], heights: NDArray[np.int64], widths: NDArray[np.int64], spec: InputSpec
) -> NDArray[np.int64]:
    """Boxes as torchvision's RandomResizedCrop draws them, from given uniforms.

    Up to `CROP_TRIES` times an area and a log-uniform aspect ratio; the first box that fits is placed uniformly.
    If none fits, the central crop of the nearest admissible ratio.

    Args:
        uniforms: (B, 22): an area and a ratio for each try, then the vertical and horizontal position.
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
