import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmlbench.data import catalogue, glyphs, omniglot
from dmlbench.data.archives import file_checksum
from dmlbench.data.images import Split, load_dataset
from dmlbench.specs.cell import DatasetSpec
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec, ProtocolSpec, TrainingSpec

REAL_OMNIGLOT = Path(__file__).resolve().parents[3] / "shared" / "data"
SIDE = 105


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def glyph_images():
    return glyphs.generate()


@pytest.fixture
def glyphs_drawn(glyph_images, monkeypatch):
    """`glyphs` whose drawing takes no time; returns the list that counts how often it was drawn."""
    drawn = []

    def generate():
        drawn.append(1)
        return glyph_images

    monkeypatch.setattr(glyphs, "generate", generate)
    return drawn


@pytest.fixture
def glyphs_split(glyphs_drawn) -> Split:
    return load_dataset(DatasetSpec(name="glyphs", version="1")).train


@pytest.fixture
def real_omniglot():
    if not (REAL_OMNIGLOT / "omniglot").is_dir():
        pytest.skip("the real Omniglot archives are not beside this checkout")
    return REAL_OMNIGLOT


@pytest.fixture
def fake_omniglot(tmp_path, monkeypatch):
    """A data folder with two tiny archives of the published layout, known to the package as the real ones.

    Training: Greek 1, Balinese 2 characters. Test: Greek and Latin (left out), Sanskrit 1 character. 3 drawings each.
    """
    folder = tmp_path / "given" / "omniglot"
    folder.mkdir(parents=True)
    for attribute, alphabets in (
        ("TRAIN", {"Greek": 1, "Balinese": 2}),
        ("TEST", {"Greek": 1, "Latin": 2, "Sanskrit": 1}),
    ):
        archive = getattr(omniglot, attribute)
        write_archive(folder / archive.name, alphabets)
        monkeypatch.setattr(
            omniglot, attribute, replace(archive, sha256=file_checksum(folder / archive.name).removeprefix("sha256:"))
        )
    info = replace(catalogue.DATASETS["omniglot-small"], train_classes=3, test_classes=1, train_images=9, test_images=3)
    monkeypatch.setitem(catalogue.DATASETS, "omniglot-small", info)
    return folder.parent


def write_archive(path, alphabets, drawings=3):
    """Black ink on white, 1 bit, members out of order; drawing k of the c-th character has k + 1 inked rows."""
    members = [
        (f"{path.stem}/{alphabet}/character{character:02d}/{character:04d}_{drawing:02d}.png", drawing)
        for alphabet, characters in alphabets.items()
        for character in range(1, characters + 1)
        for drawing in range(drawings)
    ]
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(f"__MACOSX/{path.stem}/Greek/character01/._0001_01.png", b"not an image")
        for member, inked_rows in reversed(members):
            pixels = np.full((SIDE, SIDE), True)
            pixels[: inked_rows + 1] = False
            content = BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            opened.writestr(member, content.getvalue())


@pytest.fixture
def make_protocol():
    """A conv4-like protocol; keywords override its input section, `batch_size` its training section."""

    def make(batch_size=112, **settings):
        defaults = {
            "channels": 1,
            "size": 28,
            "resize": 28,
            "mean": (0.0,),
            "std": (1.0,),
            "augmentation": "affine",
            "rotation": 10.0,
            "translation": 0.05,
            "scale": (0.9, 1.1),
        }
        return ProtocolSpec(
            name="test",
            title="test",
            model=ModelSpec(backbone="conv4", embedding_dim=64),
            input=InputSpec(**(defaults | settings)),
            training=TrainingSpec(epochs=1, batch_size=batch_size, learning_rate=1e-3),
        )

    return make


@pytest.fixture
def annotations():
    """The official lists of CUB-200-2011 and Cars196."""
    folder = REAL_OMNIGLOT.parent / "annotations"
    if not folder.is_dir():
        pytest.skip("the official lists are not beside this checkout")
    return folder


@pytest.fixture
def folder(tmp_path):
    """Four classes a-d of three noisy 40 x 30 JPEGs."""
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in "abcd":
        (root / name).mkdir(parents=True)
        for number in range(3):
            write_jpeg(root / name / f"{number}.jpg", rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return root


def write_jpeg(path, pixels, mode=None):
    image = Image.fromarray(pixels) if mode is None else Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    image.save(path, "JPEG", quality=95)


@pytest.fixture
def bad_folder(folder):
    """The folder with one truncated, one empty, one CMYK, one grey, one palette and one 1 x 1 image, and no image."""
    whole = (folder / "a" / "0.jpg").read_bytes()
    (folder / "a" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "empty.jpg").write_bytes(b"")
    rng = np.random.default_rng(1)
    write_jpeg(folder / "c" / "cmyk.jpg", rng.integers(0, 256, (30, 40, 4), dtype=np.uint8), mode="CMYK")
    write_jpeg(folder / "c" / "grey.jpg", rng.integers(0, 256, (30, 40), dtype=np.uint8))
    Image.fromarray(rng.integers(0, 9, (30, 40), dtype=np.uint8)).convert("P").save(folder / "d" / "palette.png")
    write_jpeg(folder / "d" / "dot.jpg", np.zeros((1, 1, 3), dtype=np.uint8))
    (folder / "d" / "page.jpg").write_bytes(b"<html>not found</html>")
    return folder
