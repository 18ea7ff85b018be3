"""Sizes and channels of images, in 8 bits, as PIL and the published code keep them between transforms.

Every output pixel is computed from its own image alone, so neither batch size, threads nor workers change a bit.
"""

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812 - the field's name for it

from dmlbench.spec import InputSpec

CHUNK_IMAGES = 256
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Images(Protocol):
    """Images by position, uint8 (C, H, W) each: a tensor of equal ones, or files decoded when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


def evaluation_geometry(images: Tensor, spec: InputSpec) -> Tensor:
    """Resize the shorter side to `resize` (bilinear, antialiased), crop the central `size`, adapt channels.

    Args:
        images: uint8 (..., C, H, W).
        spec: `resize`, `size` and `channels`.

    Returns:
        uint8 (..., channels, size, size).
    """
    resized = F.resize(images, [spec.resize], antialias=True)
    return adapt_channels(F.center_crop(resized, [spec.size, spec.size]), spec.channels)


def evaluation_images(images: Images, spec: InputSpec) -> Tensor:
    """All of `images` in evaluation geometry, uint8 (N, channels, size, size)."""
    if isinstance(images, Tensor):
        return torch.cat([evaluation_geometry(chunk, spec) for chunk in images.split(CHUNK_IMAGES)])
    return torch.stack([evaluation_geometry(images[index], spec) for index in range(len(images))])


@dataclass(frozen=True)
class EvaluationView:
    """Images in evaluation geometry, uint8 (channels, size, size), each made when asked for."""

    images: Images
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return evaluation_geometry(self.images[index], self.spec)


def resized_crop(crop: Tensor, spec: InputSpec, *, mirrored: bool) -> Tensor:
    """Resize a crop to `size` (bilinear, antialiased), perhaps mirror it, adapt channels.

    Args:
        crop: uint8 (C, h, w).
        spec: `size` and `channels`.
        mirrored: Left for right.

    Returns:
        uint8 (channels, size, size).
    """
    resized = F.resize(crop, [spec.size, spec.size], antialias=True)
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
    """What a network takes: ``(x - mean) / std`` per channel, with x in [0, 1].

    Args:
        images: (B, channels, H, W): uint8 on any device, or float32 in [0, 1].
        spec: `mean` and `std`.

    Returns:
        float32 (B, channels, H, W).
    """
    mean, std = (_per_channel(values, images.device) for values in (spec.mean, spec.std))
    # In place where the memory is our own: fresh pages for every step cost more than the arithmetic.
    scaled = images.clone() if images.is_floating_point() else images.to(torch.float32).div_(255)
    return scaled.sub_(mean).div_(std)


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(channels, 1, 1) on a device, made once: a copy to a GPU for every batch would make the host wait."""
    return torch.tensor(values, device=device)[:, None, None]
