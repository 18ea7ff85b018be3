import numpy as np
import pytest

from dmlbench.data.samplers import epoch_indices, epoch_steps
from dmlbench.specs.cell import TrainingSpec

LABELS = np.repeat(np.arange(100), 20)


def training(batch_size=112, samples_per_class=2):
    return TrainingSpec(epochs=1, learning_rate=1.0, batch_size=batch_size, samples_per_class=samples_per_class)


@pytest.mark.parametrize(("images", "steps"), [(2_000, 17), (5_864, 52), (111, 1), (224, 2)])
def test_steps(images, steps):
    assert epoch_steps(images, training()) == steps


@pytest.mark.parametrize("samples_per_class", [2, 4])
def test_shape_and_neighbours_of_one_class(samples_per_class):
    indices = epoch_indices(LABELS, training(samples_per_class=samples_per_class), np.random.default_rng(0))
    assert indices.shape == (17, 112)
    assert indices.dtype == np.int64
    drawn = LABELS[indices].reshape(17, -1, samples_per_class)
    assert (drawn == drawn[..., :1]).all()


def test_a_batch_of_fewer_images_than_its_size():
    indices = epoch_indices(np.array([0, 0, 1]), training(), np.random.default_rng(0))
    assert indices.shape == (1, 112)
    assert set(indices.ravel()) == {0, 1, 2}


def test_classes_come_with_replacement():
    """56 draws from 100 classes hold 100 (1 - .99^56) = 43.05 different ones; without replacement 56."""
    rng = np.random.default_rng(0)
    batches = [batch for _ in range(100) for batch in LABELS[epoch_indices(LABELS, training(), rng)]]
    different = [len(set(batch)) for batch in batches]
    assert abs(np.mean(different) - 43.05) < 0.2


def test_images_come_with_replacement():
    """Two draws from 20 images of a class are the same one with probability 1 / 20."""
    pairs = np.concatenate(
        [epoch_indices(LABELS, training(), np.random.default_rng(seed)).reshape(-1, 2) for seed in range(60)]
    )
    assert abs((pairs[:, 0] == pairs[:, 1]).mean() - 0.05) < 0.005


def test_classes_are_uniform_and_images_uniform_within_them():
    """Whatever the sizes of classes, and whatever the order of the labels."""
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [1, 4, 95]))
    spec = training(batch_size=100)
    rng = np.random.default_rng(0)
    indices = np.concatenate([epoch_indices(labels, spec, rng).ravel() for _ in range(600)])
    class_share = np.bincount(labels[indices]) / len(indices)
    np.testing.assert_allclose(class_share, 1 / 3, atol=0.01)
    image_share = np.bincount(indices, minlength=100) / len(indices)
    np.testing.assert_allclose(image_share[labels == 1], 1 / 12, atol=0.01)
    assert (image_share[labels == 2] > 0).all()


def test_a_function_of_the_stream_alone():
    first, again, other = (epoch_indices(LABELS, training(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
