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
    """Crops of different sizes in one buffer, so that a batch is two transfers. A tuple, so that loaders can pin it.

    Attributes:
        pixels: uint8 (sum of h * w, C), rows of each crop in order.
        table: int64 (B, 4), for each crop its height, width, first pixel, and 1 where it is to be mirrored.
    """

    pixels: Tensor
    table: Tensor


def packed(crops: list[tuple[Tensor, bool]], spec: InputSpec) -> Crops:
    """Pack a batch's crops, uint8 (C, h, w) and whether mirrored, unresized unless they are very large."""
    images = [_bounded(crop, spec) for crop, _ in crops]
    channels = images[0].shape[0]
    pixels = torch.cat([image.permute(1, 2, 0).reshape(-1, channels) for image in images])
    table = torch.tensor([[*image.shape[-2:], 0, mirrored] for image, (_, mirrored) in zip(images, crops, strict=True)])
    areas = table[:, 0] * table[:, 1]
    table[:, 2] = areas.cumsum(0) - areas
    return Crops(pixels, table)


def resized(crops: Crops, size: int, device: torch.device) -> Tensor:
    """Resize (bilinear, antialiased) and mirror on a device, without making the host wait.

    Args:
        crops: Packed crops on the host, page-locked for CUDA.
        size: Side of the result in pixels.
        device: Where to do it.

    Returns:
        uint8 (B, C, size, size) on the device.
    """
    pixels, table = crops.pixels.to(device, non_blocking=True), crops.table.to(device, non_blocking=True)
    largest = [chunk[:, :2].amax(dim=0).tolist() for chunk in crops.table.split(CHUNK)]
    chunks = zip(table.split(CHUNK), largest, strict=True)
    batch = torch.cat([_resized_chunk(pixels, rows, tallest, widest, size) for rows, (tallest, widest) in chunks])
    return torch.where(table[:, 3, None, None, None] > 0, batch.flip(-1), batch)


def _bounded(crop: Tensor, spec: InputSpec) -> Tensor:
    height, width = crop.shape[-2:]
    if height * width <= LARGEST_CROP and max(height, width) <= LONGEST_SIDE:
        return crop
    own_channels = spec.model_copy(update={"channels": crop.shape[0]})
    return resized_crop(crop, own_channels, mirrored=False)


def _resized_chunk(pixels: Tensor, table: Tensor, tallest: int, widest: int, size: int) -> Tensor:
    heights, widths, starts, _ = table[:, :, None, None].unbind(1)
    rows = torch.arange(tallest, device=pixels.device)[:, None]
    columns = torch.arange(widest, device=pixels.device)
    # Beyond an image's edge any pixel will do: its weight is 0.
    places = starts + torch.minimum(rows, heights - 1) * widths + torch.minimum(columns, widths - 1)
    padded = pixels[places].permute(0, 3, 1, 2).to(torch.float32)
    vertical, horizontal = _weights(heights, tallest, size), _weights(widths, widest, size)
    return (vertical[:, None] @ padded @ horizontal[:, None].mT).round().clamp(0, 255).to(torch.uint8)


def _weights(lengths: Tensor, longest: int, size: int) -> Tensor:
    """Triangle filters from `lengths` (B, 1, 1) to `size` pixels, as wide as a shrinking needs: (B, size, longest)."""
    scale = lengths / size
    centres = (torch.arange(size, device=lengths.device)[:, None] + 0.5) * scale
    places = torch.arange(longest, device=lengths.device)
    distance = (places + 0.5 - centres).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp(min=0) * (places < lengths)
    return weights / weights.sum(dim=-1, keepdim=True)
