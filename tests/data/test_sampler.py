import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlbench.data.samplers import epoch_indices, epoch_steps
from dmlbench.errors import UserError
from dmlbench.specs.protocol_spec import TrainingSpec

LABELS = np.repeat(np.arange(100), 20)


def training(batch_size=112, samples_per_class=2, **others):
    sizes = {"batch_size": batch_size, "samples_per_class": samples_per_class}
    return TrainingSpec(epochs=1, learning_rate=1.0, **sizes, **others)


@pytest.mark.parametrize(("images", "steps"), [(2_000, 17), (5_864, 52), (111, 1), (224, 2)])
def test_steps(images, steps):
    assert epoch_steps(10, images, training()) == steps


def test_steps_of_other_samplers():
    balanced = training(900, 9, sampler="class-balanced")
    assert epoch_steps(100, 5_864, balanced) == 1  # CUB, as in the code of Ermolov et al.
    assert epoch_steps(11_318, 59_551, training(900, 2, sampler="class-balanced")) == 25  # SOP
    assert epoch_steps(100, 5_864, training(120, 1, sampler="shuffle")) == 48
    assert epoch_steps(100, 5_864, training(64, 4, sampler="m-per-class", steps_per_epoch=1000)) == 1000


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


UNEVEN = np.repeat(np.arange(30), np.arange(3, 33))  # classes of 3 to 32 images


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 4, 5]), st.integers(2, 6))
def test_class_balanced_visits_every_class_once_a_pass(seed, per_class, draws):
    spec = training(draws * per_class, per_class, sampler="class-balanced")
    indices = epoch_indices(UNEVEN, spec, np.random.default_rng(seed))
    assert indices.shape == (max(1, 30 * per_class // spec.batch_size), spec.batch_size)
    groups = indices.reshape(-1, per_class)
    classes = UNEVEN[groups]
    assert (classes == classes[:, :1]).all()
    assert len(set(classes[:, 0].tolist())) == len(groups)  # no class twice
    for images, label in zip(groups, classes[:, 0], strict=True):
        enough = (label == UNEVEN).sum() >= per_class
        assert len(set(images.tolist())) == per_class or not enough


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 4]), st.integers(2, 6))
def test_m_per_class_deals_every_image_before_it_repeats_one(seed, per_class, draws):
    spec = training(draws * per_class, per_class, sampler="m-per-class")
    indices = epoch_indices(UNEVEN, spec, np.random.default_rng(seed))
    assert indices.shape == (len(UNEVEN) // spec.batch_size, spec.batch_size)
    for batch in UNEVEN[indices].reshape(len(indices), draws, per_class):
        assert (batch == batch[:, :1]).all()
        assert len(set(batch[:, 0].tolist())) == draws
    first = indices[: len(indices) // 2].ravel()  # half a pass: only a class's last group repeats images of it
    repeated = len(first) - len(set(first.tolist()))
    assert repeated <= 30 * (per_class - 1)


def test_shuffle_is_a_permutation_without_its_rest():
    spec = training(50, 1, sampler="shuffle")
    indices = epoch_indices(UNEVEN, spec, np.random.default_rng(0))
    assert indices.shape == (len(UNEVEN) // 50, 50)
    assert len(set(indices.ravel().tolist())) == indices.size
    assert set(indices.ravel().tolist()) <= set(range(len(UNEVEN)))
    # The labels do not matter: classes are drawn as often as they have images.
    drawn = np.concatenate([epoch_indices(UNEVEN, spec, np.random.default_rng(seed)).ravel() for seed in range(200)])
    counts = np.bincount(UNEVEN[drawn], minlength=30) / np.bincount(UNEVEN)
    assert np.allclose(counts, counts.mean(), rtol=0.1)


@pytest.mark.parametrize("sampler", ["class-balanced", "m-per-class"])
def test_more_steps_than_a_pass_gives_go_through_again(sampler):
    spec = training(20, 2, sampler=sampler, steps_per_epoch=100)
    indices = epoch_indices(UNEVEN, spec, np.random.default_rng(0))
    assert indices.shape == (100, 20)
    assert set(UNEVEN[indices].ravel().tolist()) == set(range(30))


@pytest.mark.parametrize(
    ("sampler", "per_class", "message"),
    [
        ("class-balanced", 2, "sampler class-balanced needs 40 classes a batch, and there are 30; give at most 60"),
        ("m-per-class", 2, "sampler m-per-class needs 40 classes a batch, and there are 30; give at most 60"),
        ("shuffle", 1, "sampler shuffle needs 600 images a batch, and there are 525; give at most 525"),
    ],
)
def test_too_few_classes_for_a_batch(sampler, per_class, message):
    size = 600 if sampler == "shuffle" else 80
    with pytest.raises(UserError, match=message):
        epoch_indices(UNEVEN, training(size, per_class, sampler=sampler), np.random.default_rng(0))
