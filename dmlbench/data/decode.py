"""Image files to 8-bit RGB, as PIL's ``convert("RGB")`` gives it."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import decode_jpeg

JPEG = b"\xff\xd8\xff"


def decode(content: Tensor) -> Tensor:
    """Decode a file's bytes; grey, palette and CMYK images become RGB, transparency is dropped.

    torchvision decodes RGB and grey JPEGs, bit for bit as PIL and faster; PIL everything else.

    Args:
        content: uint8 (bytes,).

    Returns:
        uint8 (3, H, W), channels last in memory.

    Raises:
        OSError or RuntimeError: not an image, or a truncated one.
    """
    if bytes(content[: len(JPEG)].numpy()) == JPEG:
        image = decode_jpeg(content)
        if image.shape[0] == 3:
            return image
        if image.shape[0] == 1:
            return image.permute(1, 2, 0).repeat(1, 1, 3).permute(2, 0, 1)
    with Image.open(io.BytesIO(content.numpy().tobytes())) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
