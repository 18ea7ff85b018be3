import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dmlbench.data.augment import (
    CROP_TRIES,
    adapt_channels,
    affine,
    augment,
    crop_boxes,
    evaluation_geometry,
    normalise,
    random_resized_crop,
    training_source,
    uniforms_per_image,
)
from dmlbench.spec import InputSpec


def spec(**settings):
    defaults = {"channels": 1, "size": 28, "resize": 28, "mean": (0.0,), "std": (1.0,), "augmentation": "affine"}
    return InputSpec(**(defaults | settings))


def rgb(**settings):
    return spec(**({"channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3} | settings))


def uint8_images(*shape):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def uniforms(rows, input_spec):
    return np.random.default_rng(1).random((rows, uniforms_per_image(input_spec)))


class TestAffine:
    jitter = spec(rotation=10.0, translation=0.05, scale=(0.9, 1.1))

    def test_zero_strength_is_the_identity(self):
        images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(affine(images, uniforms(5, spec()), spec()), images, atol=1e-5, rtol=0)

    def test_middle_uniforms_are_the_identity(self):
        images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(affine(images, np.full((2, 4), 0.5), self.jitter), images, atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("uniform", "turns"), [(1.0, -1), (0.0, 1)])
    def test_quarter_turns(self, uniform, turns):
        images = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        turned = affine(images, np.array([[uniform, 0.5, 0.5, 0.0]]), spec(rotation=90.0))
        torch.testing.assert_close(turned, torch.rot90(images, turns, (2, 3)), atol=1e-4, rtol=0)

    def test_translation_moves_whole_pixels_and_fills_with_zeros(self):
        images = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)) + 1
        moved = affine(images, np.array([[0.5, 1.0, 0.0, 0.5]]), spec(translation=0.25))  # 7 right, 7 up
        torch.testing.assert_close(moved[..., :21, 7:], images[..., 7:, :21], atol=1e-4, rtol=0)
        assert moved[..., :, :6].abs().max() < 1e-4
        assert moved[..., 22:, :].abs().max() < 1e-4

    @pytest.mark.parametrize(("uniform", "area"), [(0.0, 0.25), (1.0, 4.0)])
    def test_scale_changes_the_area(self, uniform, area):
        images = torch.zeros(1, 1, 28, 28)
        images[..., 10:18, 10:18] = 1
        scaled = affine(images, np.array([[0.5, 0.5, 0.5, uniform]]), spec(scale=(0.5, 2.0)))
        assert scaled.sum().item() == pytest.approx(64 * area, rel=0.02)

    def test_non_square_images_turn_without_distortion(self):
        images = torch.zeros(1, 1, 20, 40)
        images[..., 9:11, 16:24] = 1
        turned = affine(images, np.array([[1.0, 0.5, 0.5, 0.0]]), spec(rotation=90.0))
        expected = torch.zeros(1, 1, 20, 40)
        expected[..., 6:14, 19:21] = 1
        torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)


class TestCrop:
    crop = rgb(size=20, resize=24, augmentation="crop", flip=True)

    def test_boxes_lie_inside_and_have_the_wanted_areas_and_ratios(self):
        top, left, tall, wide = crop_boxes(np.random.default_rng(0).random((20_000, 22)), 100, 150, self.crop).T
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + tall <= 100).all()
        assert (left + wide <= 150).all()
        area = tall * wide / 15_000
        assert 0.075 < area.min() < 0.09
        assert 0.85 < area.max() <= 1
        ratio = wide / tall
        assert 0.7 < ratio.min() < 0.76
        assert 1.3 < ratio.max() < 1.36

    def test_sampled_as_torchvision_samples(self):
        """Means and deviations of 20,000 boxes, against torchvision's own sampling."""
        ours = crop_boxes(np.random.default_rng(0).random((20_000, 22)), 100, 150, self.crop)
        torch.manual_seed(0)
        transform = v2.RandomResizedCrop(20)
        image = torch.zeros(3, 100, 150)
        theirs = [transform.make_params([image]) for _ in range(4_000)]
        theirs = np.array([[box["top"], box["left"], box["height"], box["width"]] for box in theirs])
        np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=1.5)
        np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), atol=1.5)

    @pytest.mark.parametrize(
        ("height", "width", "box"), [(10, 100, [0, 43, 10, 13]), (100, 10, [43, 0, 13, 10]), (50, 50, [0, 0, 50, 50])]
    )
    def test_the_central_crop_where_no_box_fits(self, height, width, box):
        largest = np.zeros((1, 22))
        largest[:, 0 : 2 * CROP_TRIES : 2] = 1.0  # the whole area, at an extreme ratio
        assert crop_boxes(largest, height, width, self.crop).tolist() == [box]

    def test_the_first_fitting_try_counts(self):
        table = np.zeros((1, 22))
        table[:, 0::2], table[:, 1::2] = 1.0, 0.0  # no fit
        table[:, 4:6] = (0.5, 0.5)  # the third try: ratio 1, area .54
        table[:, -2:] = (0.0, 0.999)
        assert crop_boxes(table, 100, 100, self.crop).tolist() == [[0, 27, 73, 73]]

    def test_pixels_are_those_of_torchvision(self):
        images = uint8_images(6, 3, 40, 50)
        table = uniforms(6, self.crop)
        ours = random_resized_crop(images, table, self.crop)
        for image, row, result in zip(images, table, ours, strict=True):
            top, left, tall, wide = crop_boxes(row[None, :-1], 40, 50, self.crop)[0].tolist()
            expected = v2.functional.resized_crop(image.float() / 255, top, left, tall, wide, [20, 20], antialias=True)
            expected = expected.flip(-1) if row[-1] < 0.5 else expected
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)

    def test_no_flip_unless_asked(self):
        images, table = uint8_images(4, 3, 40, 50), uniforms(4, self.crop)
        table[:, -1] = 0.0
        flipped = random_resized_crop(images, table, self.crop)
        straight = random_resized_crop(images, table, self.crop.model_copy(update={"flip": False}))
        assert torch.equal(flipped, straight.flip(-1))


class TestEvaluationGeometry:
    def test_already_in_size_is_only_scaled(self):
        images = uint8_images(3, 1, 28, 28)
        assert torch.equal(evaluation_geometry(images, spec()), images.float() / 255)

    @pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (31, 47)])
    def test_as_torchvision_resizes_and_crops(self, height, width):
        images = uint8_images(3, 3, height, width)
        reference = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])(images.float() / 255)
        ours = evaluation_geometry(images, rgb(resize=32))
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=0)

    def test_independent_of_what_else_is_transformed(self):
        images = uint8_images(300, 1, 40, 40)
        whole = evaluation_geometry(images, spec())
        assert torch.equal(whole[270:280], evaluation_geometry(images[270:280], spec()))


class TestChannels:
    def test_grey_becomes_three_equal_channels(self):
        grey = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        adapted = adapt_channels(grey, 3)
        assert adapted.shape == (2, 3, 4, 4)
        assert all(torch.equal(adapted[:, channel], grey[:, 0]) for channel in range(3))

    def test_colours_become_luminance(self):
        colours = torch.eye(3).reshape(3, 3, 1, 1)
        assert adapt_channels(colours, 1).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
        white = adapt_channels(torch.ones(1, 3, 2, 2), 1)
        torch.testing.assert_close(white, torch.ones(1, 1, 2, 2))

    def test_normalised_per_channel(self):
        images = torch.ones(1, 3, 2, 2)
        normalised = normalise(images, rgb(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25)))
        assert normalised[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("augmentation", ["affine", "crop", "none"])
@pytest.mark.parametrize("channels", [1, 3])
class TestAugment:
    def batch(self, augmentation, channels):
        settings = {"rotation": 10.0, "translation": 0.05, "scale": (0.9, 1.1), "resize": 32}
        chosen = (spec if channels == 3 else rgb)(augmentation=augmentation, **settings)  # adapts channels either way
        return training_source(uint8_images(9, channels, 40, 50), chosen), uniforms(9, chosen), chosen

    def test_shape_and_type(self, augmentation, channels):
        source, table, chosen = self.batch(augmentation, channels)
        result = augment(source, table, chosen)
        assert result.shape == (9, chosen.channels, 28, 28)
        assert result.dtype == torch.float32
        assert result.is_contiguous()

    def test_deterministic_and_independent_of_the_rest_of_the_batch(self, augmentation, channels):
        source, table, chosen = self.batch(augmentation, channels)
        whole = augment(source, table, chosen)
        assert torch.equal(whole, augment(source, table, chosen))
        for index in range(9):
            alone = augment(source[index : index + 1], table[index : index + 1], chosen)
            torch.testing.assert_close(alone[0], whole[index], atol=1e-6, rtol=0)

    def test_the_number_of_threads_changes_nothing(self, augmentation, channels):
        source, table, chosen = self.batch(augmentation, channels)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(augment(source, table, chosen))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(*results)
