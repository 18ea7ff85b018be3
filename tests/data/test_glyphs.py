import os

import numpy as np
import pytest

from dmlbench.data import glyphs
from dmlbench.data.glyphs import SIBLING_DISTANCE, Draws, _hausdorff, _padded_outline, alphabets, draw
from dmlbench.data.images import load_dataset
from dmlbench.errors import UserError
from dmlbench.specs.cell import DatasetSpec

# Version 1. Another fingerprint means other pixels: old results no longer belong to the dataset's version.
GLYPHS = DatasetSpec(name="glyphs", version=glyphs.VERSION)
PINNED_FINGERPRINT = "06890bb9510470fd8235b8839139aec1b61f64a7373e9983dafec0861564956c"


def cache_file():
    return glyphs.cache_dir() / f"glyphs-{glyphs.VERSION}.npz"


def test_pinned_contents(glyphs_drawn):
    assert load_dataset(GLYPHS).fingerprint == PINNED_FINGERPRINT


def test_counts_and_values(glyphs_drawn):
    dataset = load_dataset(GLYPHS)
    for split in (dataset.train, dataset.test):
        assert split.images.shape == (2_000, 1, 28, 28)
        assert split.labels.bincount().tolist() == [20] * 100
        assert len(set(split.class_names)) == 100
        assert split.images.max() == 255
        assert split.images[..., 0, 0].float().mean() < 5  # background is 0
    assert not set(dataset.train.class_names) & set(dataset.test.class_names)


def test_no_drawing_is_empty_or_occurs_twice(glyph_images):
    flat = glyph_images.reshape(4_000, -1)
    assert (flat.max(axis=1) > 127).all()
    assert len(np.unique(flat, axis=0)) == 4_000


def test_every_class_has_its_own_skeleton():
    outlines = np.stack([_padded_outline(character) for character in alphabets(4, Draws(glyphs.SKELETONS))])
    for index, outline in enumerate(outlines):
        assert (_hausdorff(outline, np.delete(outlines, index, axis=0)) >= SIBLING_DISTANCE).all()


def test_drawing_is_deterministic_and_follows_its_stream():
    character = alphabets(1, Draws(glyphs.SKELETONS))[0]
    first, again, other = (draw(character, 3, Draws(purpose)) for purpose in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_uniforms_are_philox_bits():
    expected = np.random.Generator(np.random.Philox(key=7)).random(5)
    np.testing.assert_array_equal(Draws(7).uniform(5), expected)


def test_bell_is_standard():
    sample = Draws(7).bell(100_000)
    assert abs(sample.mean()) < 0.02
    assert abs(sample.std() - 1) < 0.02


def test_the_cache_spares_a_second_drawing(glyphs_drawn):
    first, second = load_dataset(GLYPHS), load_dataset(GLYPHS)
    assert len(glyphs_drawn) == 1
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "pickled", "other", "npy"])
def test_a_damaged_cache_is_drawn_again(glyphs_drawn, glyph_images, damage):
    lines = []
    glyphs.prepare(None, lines.append)
    path = cache_file()
    content = bytearray(path.read_bytes())
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    elif damage == "pickled":
        np.savez(path, images=np.array([{}], dtype=object))
    elif damage == "other":
        np.savez(path, images=glyph_images[::-1])
    else:
        with path.open("wb") as file:
            np.save(file, glyph_images)
    train, _ = glyphs.read(None, lines.append)
    np.testing.assert_array_equal(train.images.ravel(), glyph_images[:100].ravel())
    assert len(glyphs_drawn) == 2
    assert "damaged" in lines[-1]
    assert [file.name for file in path.parent.glob("*.part")] == []


def test_another_drawing_than_the_versions_is_refused(glyph_images, monkeypatch):
    monkeypatch.setattr(glyphs, "generate", lambda: glyph_images[::-1])
    with pytest.raises(UserError, match=f"version 1 is sha256 {glyphs.SHA256}, this machine draws"):
        glyphs.prepare(None, print)
    assert not cache_file().exists()


@pytest.mark.skipif(os.name == "nt", reason="a file where a folder should be reads otherwise on Windows")
def test_an_unusable_cache_folder_is_one_line(glyphs_drawn, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME") as caught:
        glyphs.prepare(None, print)
    assert "\n" not in str(caught.value)
