import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmlbench.data.images import decode

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cub50" / "images"


def encoded(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def as_tensor(content):
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def by_pil(content):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)


PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
RGB, RGBA, GREY = (
    Image.fromarray(PIXELS[..., :3].copy()),
    Image.fromarray(PIXELS),
    Image.fromarray(PIXELS[..., 0].copy()),
)
CMYK = Image.frombytes("CMYK", (40, 30), PIXELS.tobytes())
WHOLE = encoded(RGB, "JPEG")
FLAWED = WHOLE[:-2] + bytes(5) + WHOLE[-2:]  # which libjpeg warns of and PIL takes
CASES = {
    "rgb": encoded(RGB, "JPEG", quality=90),
    "progressive": encoded(RGB, "JPEG", quality=90, progressive=True),
    "unsampled": encoded(RGB, "JPEG", quality=90, subsampling=0),
    "with rubbish after its end": encoded(RGB, "JPEG") + b"rubbish",
    "with rubbish inside": FLAWED,
    "grey": encoded(GREY, "JPEG"),
    "cmyk": encoded(CMYK, "JPEG"),
    "png": encoded(RGB),
    "transparent": encoded(RGBA),
    "palette": encoded(RGB.quantize(16)),
    "bits": encoded(GREY.convert("1")),
    "webp": encoded(RGB, "WEBP"),
    "gif": encoded(RGB.quantize(16), "GIF"),
    "bmp": encoded(RGB, "BMP"),
}


@pytest.mark.parametrize("case", CASES)
def test_as_pil_converts_bit_for_bit(case):
    image = decode(as_tensor(CASES[case]))
    assert image.dtype == torch.uint8
    assert torch.equal(image, by_pil(CASES[case]))
    assert image.permute(1, 2, 0).is_contiguous()  # crops of any file take the same path of the resizing


def test_real_photographs_as_pil_decodes_them():
    if not SHARED.is_dir():
        pytest.skip("the real photographs are not beside this checkout")
    for path in sorted(SHARED.glob("*/*.jpg"))[::60]:
        assert torch.equal(decode(as_tensor(path.read_bytes())), by_pil(path.read_bytes()))


@pytest.mark.parametrize("content", [CASES["rgb"][:300], CASES["png"][:100], b"\xff\xd8\xff", b"<html>", b"x"])
def test_what_is_no_image(content):
    with pytest.raises((OSError, SyntaxError)):
        decode(as_tensor(content))
