"""Random crops resized on the device: one batched operation in place of a loop over images on the host.

Geometry and filter are those of `geometry.resized_crop`, which rounds to 8 bits after each of its two passes; here
both are matrix products in float32 and one rounding follows, so a pixel may differ by one grey level.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dmlbench.data.geometry import resized_crop
from dmlbench.spec import InputSpec

LARGEST_CROP = 640 * 640  # pixels; larger crops are resized on the host, so that one image cannot fill the device
LONGEST_SIDE = 1024
CHUNK = 16  # images resized at a time: they are padded to the largest of them


class Crops(NamedTuple):
    """Crops of different sizes in one buffer, so that a batch is one transfer. A tuple, so that loaders can pin it.

    Attributes:
        pixels: uint8 (sum of h * w, C), rows of each crop in order.
        sizes: int64 (B, 2), heights and widths; stays on the host, where it is read.
        mirrored: bool (B,).
    """

    pixels: Tensor
    sizes: Tensor
    mirrored: Tensor


def packed(crops: list[tuple[Tensor, bool]], spec: InputSpec) -> Crops:
    """Pack a batch's crops, uint8 (C, h, w) and whether mirrored, unresized unless they are very large."""
    images = [_bounded(crop, spec) for crop, _ in crops]
    channels = images[0].shape[0]
    pixels = torch.cat([image.permute(1, 2, 0).reshape(-1, channels) for image in images])
    sizes = torch.tensor([image.shape[-2:] for image in images])
    return Crops(pixels, sizes, torch.tensor([mirrored for _, mirrored in crops]))


def resized(crops: Crops, size: int) -> Tensor:
    """Resize (bilinear, antialiased) and mirror.

    Args:
        crops: Packed crops, pixels and `mirrored` on any one device.
        size: Side of the result in pixels.

    Returns:
        uint8 (B, C, size, size) on the device of the pixels.
    """
    areas = crops.sizes.prod(dim=1)
    starts = areas.cumsum(0) - areas
    chunks = zip(crops.sizes.split(CHUNK), starts.split(CHUNK), strict=True)
    batch = torch.cat([_resized_chunk(crops.pixels, sizes, first, size) for sizes, first in chunks])
    return torch.where(crops.mirrored[:, None, None, None], batch.flip(-1), batch)


def _bounded(crop: Tensor, spec: InputSpec) -> Tensor:
    height, width = crop.shape[-2:]
    if height * width <= LARGEST_CROP and max(height, width) <= LONGEST_SIDE:
        return crop
    own_channels = spec.model_copy(update={"channels": crop.shape[0]})
    return resized_crop(crop, own_channels, mirrored=False)


def _resized_chunk(pixels: Tensor, sizes: Tensor, starts: Tensor, size: int) -> Tensor:
    tallest, widest = sizes.amax(dim=0).tolist()
    heights, widths, starts = (values.to(pixels.device, non_blocking=True) for values in (*sizes.unbind(1), starts))
    rows = torch.arange(tallest, device=pixels.device)[:, None]
    columns = torch.arange(widest, device=pixels.device)
    # Beyond an image's edge any pixel will do: its weight is 0.
    inside = torch.minimum(rows, heights[:, None, None] - 1) * widths[:, None, None]
    places = starts[:, None, None] + inside + torch.minimum(columns, widths[:, None, None] - 1)
    padded = pixels[places].permute(0, 3, 1, 2).to(torch.float32)
    vertical, horizontal = _weights(heights, tallest, size), _weights(widths, widest, size)
    return (vertical[:, None] @ padded @ horizontal[:, None].mT).round().clamp(0, 255).to(torch.uint8)


def _weights(lengths: Tensor, longest: int, size: int) -> Tensor:
    """Triangle filters from `lengths` (B,) to `size` pixels, as wide as a shrinking needs: (B, size, longest)."""
    scale = (lengths / size)[:, None, None]
    centres = (torch.arange(size, device=lengths.device)[:, None] + 0.5) * scale
    places = torch.arange(longest, device=lengths.device)
    distance = (places + 0.5 - centres).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp(min=0) * (places < lengths[:, None, None])
    return weights / weights.sum(dim=-1, keepdim=True)
