"""A protocol's own pipeline of torchvision transforms, and the interpolation of its resizing."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F  # noqa: N812 - the field's name for it

from dmlbench.data.augment import (
    augment,
    check_transforms,
    evaluation_geometry,
    transforms,
    uniforms_per_image,
)
from dmlbench.data.images import Split
from dmlbench.data.loader import TrainingBatches
from dmlbench.errors import UserError
from dmlbench.specs.protocol import load_protocol, parse_settings
from dmlbench.specs.protocol_spec import InputSpec

XBM = [{"Resize": {"size": 40}}, {"RandomResizedCrop": {"size": 32, "scale": [0.2, 1.0]}}, {"RandomHorizontalFlip": {}}]
FLOATS = [{"RandomResizedCrop": {"size": 32}}, {"ToDtype": {"dtype": "float32", "scale": True}}]
JITTER = [
    {"RandomApply": {"transforms": [{"ColorJitter": {"brightness": 0.4}}, {"RandomGrayscale": {"p": 0.5}}], "p": 0.9}},
    {"RandomResizedCrop": {"size": 32, "interpolation": "bicubic"}},
]


def spec(pipeline=XBM, **settings) -> InputSpec:
    common = {"size": 32, "resize": 32, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    own = {"augmentation": "transforms", "transforms": pipeline} if pipeline else {"augmentation": "none"}
    return InputSpec(**(common | own | settings))


def images(count=6, height=48, width=60, channels=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def uniforms(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, uniforms_per_image(spec())))


@pytest.mark.parametrize("pipeline", [XBM, JITTER])
def test_an_image_depends_on_its_position_alone(pipeline):
    """As of every augmentation: neither the batch around it nor the process's generator changes it."""
    everything = augment(images(), np.arange(6), uniforms(6), spec(pipeline))
    assert everything.shape == (6, 3, 32, 32)
    assert everything.dtype == torch.uint8
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone = augment(images(), np.array([4]), uniforms(6)[4:5], spec(pipeline))
    assert torch.equal(alone[0], everything[4])
    assert torch.equal(torch.get_rng_state(), before)
    other = augment(images(), np.arange(6), uniforms(6, seed=1), spec(pipeline))
    assert not torch.equal(other, everything)


def test_the_pipeline_is_torchvisions():
    built = v2.Compose([v2.Resize(40), v2.RandomResizedCrop(32, (0.2, 1.0)), v2.RandomHorizontalFlip()])
    drawn = uniforms(6)
    found = augment(images(), np.arange(6), drawn, spec())
    for image, own, seed in zip(images(), found, (drawn[:, 0] * 2**53).astype(np.int64).tolist(), strict=True):
        torch.manual_seed(seed)
        assert torch.equal(own, built(image))


def test_grey_images_get_three_channels_first():
    found = augment(images(channels=1), np.arange(2), uniforms(2), spec(JITTER))
    assert found.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (
            [{"RandomCrops": {"size": 8}}],
            "input.transforms: unknown transform 'RandomCrops'; did you mean 'RandomCrop'",
        ),
        ([{"RandomCrop": {"sizes": 8}}], "input.transforms: RandomCrop does not take {'sizes': 8}"),
        ([{"RandomResizedCrop": {"size": 8, "interpolation": "cubic"}}], "RandomResizedCrop does not take"),
        ([{"Lambda": {"lambd": "print"}}], "input.transforms: unknown transform 'Lambda'"),
    ],
)
def test_transforms_that_do_not_exist(pipeline, message):
    with pytest.raises(UserError) as caught:
        transforms(spec(pipeline))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_transforms_that_give_another_shape():
    with pytest.raises(UserError, match=r"must give uint8 or float32 \(3, 32, 32\), and give torch.uint8 \(3, 8, 10\)"):
        augment(images(), np.arange(2), uniforms(2), spec([{"Resize": {"size": 8}}]))


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ([{"Resize": {"size": 8}}], "input.transforms: must give uint8 or float32"),
        ([{"ToPILImage": {}}], "input.transforms: must give uint8 or float32 (3, 32, 32), and give a Image"),
        ([{"FiveCrop": {"size": 8}}], "input.transforms: must give uint8 or float32 (3, 32, 32), and give a tuple"),
        ([{"RandomCrop": {"size": 5000}}], "input.transforms: fail on an image (Required crop size"),
    ],
)
def test_transforms_are_tried_before_a_run(pipeline, message):
    with pytest.raises(UserError) as caught:
        check_transforms(spec(pipeline))
    assert message in str(caught.value)
    for valid in (XBM, JITTER, FLOATS):
        check_transforms(spec(valid))


def test_a_gpus_stream_is_left_alone(monkeypatch):
    """Seeding torch as a whole would restart the stream that dropout draws from on a GPU."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU was seeded"))
    augment(images(), np.arange(6), uniforms(6), spec())


def test_bicubic_evaluation_is_pils():
    """As Resize(interpolation=BICUBIC) of the official code of Ermolov et al. on PIL images, but for rounding."""
    own = evaluation_geometry(images(1)[0], spec(None, interpolation="bicubic", size=20, resize=24))
    picture = Image.fromarray(images(1)[0].permute(1, 2, 0).numpy())
    expected = F.center_crop(F.resize(picture, [24], InterpolationMode.BICUBIC), [20, 20])
    difference = own.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 1
    bilinear = evaluation_geometry(images(1)[0], spec(None, size=20, resize=24))
    assert not torch.equal(own, bilinear)


def test_the_crop_is_resized_by_the_protocols_interpolation():
    rows = np.random.default_rng(0).random((3, 23))
    found = [
        augment(images(), np.arange(3), rows, spec(None, augmentation="crop", interpolation=own))
        for own in ("bilinear", "bicubic")
    ]
    assert not torch.equal(*found)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_transforms_in_any_number_of_workers(workers):
    settings = parse_settings((
        "input.augmentation=transforms",
        "input.transforms=[{RandomResizedCrop: {size: 28}}, {RandomRotation: {degrees: 10}}]",
        "training.batch_size=4",
    ))[0]  # fmt: skip
    protocol = load_protocol("conv4-64", "glyphs", settings)
    split = Split(images(8, 30, 30, 1), torch.arange(8) // 2, tuple("abcd"))
    with TrainingBatches(split, protocol, 0, data_workers=workers) as batches:
        found = torch.cat([batch.images for batch in batches.epoch(0)])
    with TrainingBatches(split, protocol, 0) as batches:
        assert torch.equal(found, torch.cat([batch.images for batch in batches.epoch(0)]))
