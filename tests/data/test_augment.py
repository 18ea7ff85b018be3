import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dmlbench.data.augment import (
    CROP_TRIES,
    EvaluationView,
    adapt_channels,
    affine,
    augment,
    crop_boxes,
    evaluation_geometry,
    evaluation_images,
    normalise,
    training_source,
    uniforms_per_image,
)
from dmlbench.specs.protocol_spec import InputSpec


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


def boxes_of(table, height, width, input_spec):
    heights, widths = np.full(len(table), height), np.full(len(table), width)
    return crop_boxes(table, heights, widths, input_spec)


class TestCrop:
    crop = rgb(size=20, resize=24, augmentation="crop", flip=True)

    def test_boxes_lie_inside_and_have_the_wanted_areas_and_ratios(self):
        top, left, tall, wide = boxes_of(np.random.default_rng(0).random((20_000, 22)), 100, 150, self.crop).T
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
        ours = boxes_of(np.random.default_rng(0).random((20_000, 22)), 100, 150, self.crop)
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
        assert boxes_of(largest, height, width, self.crop).tolist() == [box]

    def test_the_first_fitting_try_counts(self):
        table = np.zeros((1, 22))
        table[:, 0::2], table[:, 1::2] = 1.0, 0.0  # no fit
        table[:, 4:6] = (0.5, 0.5)  # the third try: ratio 1, area .54
        table[:, -2:] = (0.0, 0.999)
        assert boxes_of(table, 100, 100, self.crop).tolist() == [[0, 27, 73, 73]]

    def test_each_image_has_boxes_of_its_own_size(self):
        table = np.random.default_rng(0).random((3, 22))
        sizes = [(40, 50), (200, 30), (9, 9)]
        together = crop_boxes(table, *np.array(sizes).T, self.crop)
        alone = [boxes_of(table[row : row + 1], *size, self.crop)[0] for row, size in enumerate(sizes)]
        assert together.tolist() == np.stack(alone).tolist()

    def test_pixels_are_those_of_torchvision(self):
        images = [uint8_images(3, 40, 50), uint8_images(3, 31, 90), uint8_images(3, 200, 20)]
        table = uniforms(3, self.crop)
        ours = augment(images, np.arange(3), table, self.crop)
        for image, row, result in zip(images, table, ours, strict=True):
            top, left, tall, wide = boxes_of(row[None, :-1], *image.shape[1:], self.crop)[0].tolist()
            expected = v2.functional.resized_crop(image, top, left, tall, wide, [20, 20], antialias=True)
            assert torch.equal(result, expected.flip(-1) if row[-1] < 0.5 else expected)

    def test_no_flip_unless_asked(self):
        images, table = uint8_images(4, 3, 40, 50), uniforms(4, self.crop)
        table[:, -1] = 0.0
        flipped = augment(images, np.arange(4), table, self.crop)
        straight = augment(images, np.arange(4), table, self.crop.model_copy(update={"flip": False}))
        assert torch.equal(flipped, straight.flip(-1))


class TestEvaluationGeometry:
    def test_already_in_size_is_left_alone(self):
        images = uint8_images(3, 1, 28, 28)
        assert torch.equal(evaluation_geometry(images, spec()), images)

    @pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (31, 47)])
    def test_as_torchvision_resizes_and_crops(self, height, width):
        images = uint8_images(3, 3, height, width)
        reference = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])(images)
        assert torch.equal(evaluation_geometry(images, rgb(resize=32)), reference)

    def test_independent_of_what_else_is_transformed(self):
        images = uint8_images(300, 1, 40, 40)
        whole = evaluation_images(images, spec())
        assert torch.equal(whole[270:280], evaluation_geometry(images[270:280], spec()))
        assert torch.equal(whole[275], EvaluationView(list(images), spec())[275])


class TestChannels:
    def test_grey_becomes_three_equal_channels(self):
        grey = uint8_images(2, 1, 4, 4)
        adapted = adapt_channels(grey, 3)
        assert adapted.shape == (2, 3, 4, 4)
        assert all(torch.equal(adapted[:, channel], grey[:, 0]) for channel in range(3))

    def test_colours_become_luminance(self):
        colours = 255 * torch.eye(3, dtype=torch.uint8).reshape(3, 3, 1, 1)
        assert adapt_channels(colours, 1).flatten().tolist() == [76, 150, 29]
        white = torch.full((3, 2, 2), 255, dtype=torch.uint8)
        assert torch.equal(adapt_channels(white, 1), white[:1])

    def test_eight_bits_are_scaled(self):
        images = uint8_images(2, 3, 4, 4)
        assert torch.equal(normalise(images, rgb()), images.float() / 255)

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
        result = augment(source, np.arange(9), table, chosen)
        assert result.shape == (9, chosen.channels, 28, 28)
        assert result.dtype == (torch.float32 if augmentation == "affine" else torch.uint8)

    def test_deterministic_and_independent_of_the_rest_of_the_batch(self, augmentation, channels):
        source, table, chosen = self.batch(augmentation, channels)
        whole = augment(source, np.arange(9), table, chosen)
        assert torch.equal(whole, augment(source, np.arange(9), table, chosen))
        for index in range(9):
            alone = augment(source, np.array([index]), table[index : index + 1], chosen)
            torch.testing.assert_close(alone[0], whole[index], atol=1e-6, rtol=0)

    def test_the_number_of_threads_changes_nothing(self, augmentation, channels):
        source, table, chosen = self.batch(augmentation, channels)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(augment(source, np.arange(9), table, chosen))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(*results)
