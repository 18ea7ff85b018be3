"""Image files to 8-bit RGB, as PIL's ``convert("RGB")`` gives it."""

import io
from contextlib import suppress

import numpy as np
import torch
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor

JPEG = b"\xff\xd8\xff"
SAME_AS_PIL = ("YCbCr", "RGB", "Gray")  # PIL converts CMYK by a formula of its own


def decode(content: Tensor) -> Tensor:
    """Decode a file's bytes; grey, palette and CMYK images become RGB, transparency is dropped.

    libjpeg-turbo decodes JPEGs directly, bit for bit as PIL does through it and faster; PIL everything else.

    Args:
        content: uint8 (bytes,).

    Returns:
        uint8 (3, H, W), channels last in memory.

    Raises:
        OSError, SyntaxError or ValueError: not an image, or a truncated one.
    """
    encoded = content.numpy()
    if encoded[: len(JPEG)].tobytes() == JPEG:
        with suppress(ValueError):  # a flaw, of which PIL is the judge
            *_, colours, _ = decode_jpeg_header(encoded)
            if colours in SAME_AS_PIL:
                return torch.from_numpy(decode_jpeg(encoded)).permute(2, 0, 1)
    with Image.open(io.BytesIO(encoded.tobytes())) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
