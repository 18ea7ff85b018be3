from pathlib import Path

import numpy as np
import pytest
import torch

from dmlbench.data import augment as device_crops
from dmlbench.data.augment import augment, crops, packed, resized, uniforms_per_image
from dmlbench.data.images import decode
from dmlbench.specs.protocol_spec import InputSpec

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cub50" / "images"
CPU = torch.device("cpu")
SIZES = [(30, 40), (200, 31), (64, 64), (9, 300), (333, 500), (8, 8)]


def spec(size, **settings):
    defaults = {"channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3, "augmentation": "crop", "flip": True}
    return InputSpec(size=size, resize=size, **(defaults | settings))


def noise(seed=0, channels=3):
    """The hardest images for a filter."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(0, 256, (channels, *size), dtype=np.uint8)) for size in SIZES * 4]


def both_paths(images, input_spec, device):
    indices = np.random.default_rng(1).integers(len(images), size=56)
    uniforms = np.random.default_rng(2).random((56, uniforms_per_image(input_spec)))
    on_host = augment(images, indices, uniforms, input_spec)
    batch = packed(crops(images, indices, uniforms, input_spec), input_spec)
    return on_host, resized(batch, input_spec.size, torch.device(device)).cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [28, 112, 224])
def test_paths_differ_by_a_grey_level_at_most(size, device):
    """The bound that the README states: at most one level anywhere, less than 0.2 levels on average."""
    on_host, on_device = both_paths(noise(), spec(size), device)
    difference = (on_host.int() - on_device.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.2


def test_photographs_differ_as_stated():
    if not SHARED.is_dir():
        pytest.skip("the real photographs are not beside this checkout")
    paths = sorted(SHARED.glob("*/*.jpg"))[::100]
    photographs = [decode(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)) for path in paths]
    on_host, on_device = both_paths(photographs, spec(112), "cpu")
    assert 0.1 < (on_host.int() - on_device.int()).abs().float().mean() < 0.18


def test_grey_stays_grey():
    on_host, on_device = both_paths(noise(channels=1), spec(28, channels=1, mean=(0.0,), std=(1.0,)), "cpu")
    assert on_device.shape == (56, 1, 28, 28)
    assert (on_host.int() - on_device.int()).abs().max() <= 1


def test_huge_crops_are_resized_on_the_host(monkeypatch):
    """One of 10,000 px would pad its neighbours to gigabytes; its pixels are then those of the host's path."""
    monkeypatch.setattr(device_crops, "LARGEST_CROP", 0)
    on_host, on_device = both_paths(noise(), spec(28), "cpu")
    assert torch.equal(on_host, on_device)
    monkeypatch.setattr(device_crops, "LARGEST_CROP", 640 * 640)
    monkeypatch.setattr(device_crops, "LONGEST_SIDE", 0)
    assert torch.equal(*both_paths(noise(), spec(28), "cpu"))


def test_an_image_does_not_depend_on_its_neighbours():
    images = [(image, index % 2 == 0) for index, image in enumerate(noise())]
    whole = resized(packed(images, spec(28)), 28, CPU)
    for index, image in enumerate(images):
        alone = resized(packed([image], spec(28)), 28, CPU)[0]
        assert (alone.int() - whole[index].int()).abs().max() <= 1  # sums of another length may round otherwise
