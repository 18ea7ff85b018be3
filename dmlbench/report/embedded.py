"""Images inside an SVG, made light: matplotlib writes four bytes a pixel, however few colours there are."""

import base64
import io
import re

from PIL import Image

EMBEDDED = re.compile(r'(?<=data:image/png;base64,)[^"]+')


def with_palettes(svg: str) -> str:
    """The same SVG with its PNGs of up to 256 opaque colours stored with a palette: a third of the size, no loss."""
    return EMBEDDED.sub(lambda found: _with_palette(found[0]), svg)


def _with_palette(encoded: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
        image = opened.convert("RGBA")
    opaque, written = image.convert("RGB"), io.BytesIO()
    if image.getchannel("A").getextrema() != (255, 255) or opaque.getcolors(256) is None:
        return encoded
    opaque.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()
