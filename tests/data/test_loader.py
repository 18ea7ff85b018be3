import multiprocessing
import time

import pytest
import torch

from dmlbench.data.augment import evaluation_images, normalise
from dmlbench.data.folder import ImageFolder
from dmlbench.data.images import Split, decoded, read_files
from dmlbench.data.loader import KEPT_EVALUATION_BYTES, EvaluationBatches, TrainingBatches
from dmlbench.errors import UserError

# Python 3.12 warns of any fork once a library has started threads; workers run none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def epoch(batches, number):
    return list(batches.epoch(number))


def tensors(batch):
    return (*batch[:3], *batch.others)


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(part, other)
        for batch, other_batch in zip(first, second, strict=True)
        for part, other in zip(tensors(batch), tensors(other_batch), strict=True)
    )


def wait_for_workers_to_end(seconds=5.0):
    deadline = time.monotonic() + seconds
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.02)
    return multiprocessing.active_children()


def test_an_epoch(glyphs_split, make_protocol):
    batches = TrainingBatches(glyphs_split, make_protocol(), seed=0)
    drawn = epoch(batches, 0)
    assert len(drawn) == batches.steps == 17
    for images, labels, indices, _ in drawn:
        assert torch.equal(glyphs_split.labels[indices], labels)
        assert images.shape == (112, 1, 28, 28)
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
        assert labels.dtype == torch.int64
        assert torch.equal(labels[::2], labels[1::2])


def test_labels_belong_to_their_images(make_protocol):
    labels = torch.arange(50).repeat_interleave(4)
    split = Split(labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 28, 28), labels, ("",) * 50)
    batches = TrainingBatches(split, make_protocol(augmentation="none"), seed=0)
    for images, drawn, indices, _ in epoch(batches, 0):
        assert torch.equal(labels[indices], drawn)
        assert torch.equal((images[:, 0, 14, 14] * 255).round().long(), drawn)


def test_a_function_of_seed_and_epoch(glyphs_split, make_protocol):
    first = TrainingBatches(glyphs_split, make_protocol(), seed=0)
    again = TrainingBatches(glyphs_split, make_protocol(), seed=0)
    other = TrainingBatches(glyphs_split, make_protocol(), seed=1)
    epochs = [epoch(first, number) for number in (0, 1)]
    assert equal(epoch(again, 1), epochs[1])  # as a run that resumes draws it
    assert equal(epoch(again, 0), epochs[0])
    assert not equal(*epochs)
    assert not equal(epoch(other, 0), epochs[0])


def test_augmentation_follows_the_position_not_the_image(glyphs_split, make_protocol):
    copies = Split(glyphs_split.images[:1].repeat(224, 1, 1, 1), torch.arange(224) // 112, ("a", "b"))
    batches = TrainingBatches(copies, make_protocol(), seed=0)
    drawn = torch.cat([batch.images for number in (0, 1) for batch in batches.epoch(number)])
    assert len(drawn) == 448  # two steps in each of two epochs
    assert len(drawn.flatten(1).unique(dim=0)) == 448


def test_augmentation_leaves_the_sampler_alone(glyphs_split, make_protocol):
    plain, jittered = (
        TrainingBatches(glyphs_split, make_protocol(augmentation=name), seed=0) for name in ("none", "affine")
    )
    for one, other in zip(plain.epoch(0), jittered.epoch(0), strict=True):
        assert torch.equal(one.labels, other.labels)


def test_more_views_leave_the_first_as_it_is(glyphs_split, make_protocol):
    one, three = (TrainingBatches(glyphs_split, make_protocol(), seed=0, views=views) for views in (1, 3))
    for single, several in zip(one.epoch(1), three.epoch(1), strict=True):
        assert single.others == ()
        assert all(torch.equal(part, other) for part, other in zip(single[:3], several[:3], strict=True))
        views = [several.view(number) for number in range(3)]
        assert len(torch.stack(views).flatten(1).unique(dim=0)) == 3
        assert all(view.stride() == views[0].stride() for view in views)


@pytest.mark.parametrize("augmentation", ["affine", "crop"])
def test_workers_change_no_bit(glyphs_split, make_protocol, augmentation):
    protocol = make_protocol(augmentation=augmentation, batch_size=448)
    alone = TrainingBatches(glyphs_split, protocol, seed=0, views=2)
    with TrainingBatches(glyphs_split, protocol, seed=0, data_workers=2, views=2) as shared:
        for number in (0, 1):
            assert equal(epoch(shared, number), epoch(alone, number))
        assert len(multiprocessing.active_children()) == 2  # the same ones in both epochs
    assert wait_for_workers_to_end() == []


def test_workers_end_in_the_middle_of_an_epoch(glyphs_split, make_protocol):
    with TrainingBatches(glyphs_split, make_protocol(), seed=0, data_workers=1) as batches:
        iterator = batches.epoch(0)
        next(iterator)
        assert multiprocessing.active_children()
    assert wait_for_workers_to_end() == []
    assert list(iterator) == []


def test_an_abandoned_epoch_leaves_nothing_in_the_next(glyphs_split, make_protocol):
    alone = TrainingBatches(glyphs_split, make_protocol(), seed=0)
    with TrainingBatches(glyphs_split, make_protocol(), seed=0, data_workers=2) as batches:
        next(batches.epoch(0))
        assert equal(epoch(batches, 1), epoch(alone, 1))


def test_closed_batches_say_so(glyphs_split, make_protocol):
    batches = TrainingBatches(glyphs_split, make_protocol(), seed=0)
    batches.close()
    batches.close()
    with pytest.raises(RuntimeError, match="closed"):
        batches.epoch(0)


@pytest.mark.parametrize("data_workers", [0, 1])
def test_torchs_global_stream_is_left_alone(glyphs_split, make_protocol, data_workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with TrainingBatches(glyphs_split, make_protocol(), seed=0, data_workers=data_workers) as batches:
        epoch(batches, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("limit", [KEPT_EVALUATION_BYTES, 0])
def test_evaluation_batches(glyphs_split, make_protocol, monkeypatch, limit):
    monkeypatch.setattr("dmlbench.data.loader.KEPT_EVALUATION_BYTES", limit)
    protocol = make_protocol(mean=(0.5,), std=(0.25,))
    batches = EvaluationBatches(glyphs_split, protocol, batch_size=300)
    expected = normalise(evaluation_images(glyphs_split.images, protocol.input), protocol.input)
    for _ in range(2):
        parts = list(batches)
        assert len(parts) == len(batches) == 7
        assert [len(part) for part in parts] == [300] * 6 + [200]
        assert torch.equal(torch.cat(parts), expected)


def test_evaluation_batch_size_is_the_protocols_by_default(glyphs_split, make_protocol):
    protocol = make_protocol()
    assert len(next(iter(EvaluationBatches(glyphs_split, protocol)))) == protocol.evaluation.batch_size


@pytest.fixture
def photographs(folder):
    """A folder's training half: decoded when asked for, and from the decoded cache."""
    files = ImageFolder("x", folder).read(None, print)[0]
    encoded, *_ = read_files(files)
    labels = torch.from_numpy(files.labels)
    return [Split(images, labels, files.class_names) for images in (encoded, decoded(encoded, "key", print))]


@pytest.mark.parametrize("augmentation", ["affine", "crop", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_give_the_same_batches_with_any_workers_and_cache(photographs, make_protocol, augmentation, channels):
    colours = {"channels": channels, "mean": (0.5,) * channels, "std": (0.5,) * channels, "flip": True}
    protocol = make_protocol(batch_size=12, augmentation=augmentation, resize=30, **colours)
    epochs = []
    for split, workers in ((photographs[0], 0), (photographs[0], 2), (photographs[1], 0), (photographs[1], 1)):
        with TrainingBatches(split, protocol, seed=0, data_workers=workers) as batches:
            epochs.append(epoch(batches, 0))
    assert epochs[0][0][0].shape == (12, channels, 28, 28)
    assert all(equal(epochs[0], other) for other in epochs[1:])


def test_sources_too_large_to_keep_are_made_anew(photographs, make_protocol, monkeypatch):
    protocol = make_protocol(batch_size=12, mean=(0.5,), std=(0.5,))
    kept = epoch(TrainingBatches(photographs[0], protocol, seed=0), 0)
    monkeypatch.setattr("dmlbench.data.augment.SOURCE_BYTES", 0)
    assert equal(epoch(TrainingBatches(photographs[0], protocol, seed=0), 0), kept)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [KEPT_EVALUATION_BYTES, 0])
def test_evaluation_of_files(photographs, make_protocol, monkeypatch, limit, workers):
    monkeypatch.setattr("dmlbench.data.loader.KEPT_EVALUATION_BYTES", limit)
    protocol = make_protocol(channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    batches = EvaluationBatches(photographs[0], protocol, batch_size=4, data_workers=workers)
    expected = normalise(evaluation_images(photographs[0].images, protocol.input), protocol.input)
    for _ in range(2):
        parts = list(batches)
        assert [len(part) for part in parts] == [4, 2]
        assert torch.equal(torch.cat(parts), expected)
    assert isinstance(batches._images, list) == bool(limit)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_whoever_meets_it(folder, make_protocol, workers):
    for path in (folder / "a").iterdir():
        path.write_bytes(b"\xff\xd8\xff" + path.name.encode())
    files = ImageFolder("x", folder).read(None, print)[0]
    split = Split(read_files(files)[0], torch.from_numpy(files.labels), files.class_names)
    protocol = make_protocol(batch_size=12, augmentation="crop", channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    refusal = pytest.raises(UserError, match=r"^\S*/a/\d\.jpg: cannot be decoded \(.*--skip-bad$")
    with TrainingBatches(split, protocol, 0, data_workers=workers) as batches, refusal:
        next(batches.epoch(0))


class Noise:
    """Draws from torch's global generator, as torchvision's transforms do."""

    def __call__(self, image):
        return (image + torch.rand_like(image)).clamp(max=1)


@pytest.mark.parametrize("views", [1, 2])
def test_an_augmentation_of_the_users_is_seeded_by_position(views, glyphs_split, make_protocol):
    def drawn(number=0, **settings):
        with TrainingBatches(glyphs_split, make_protocol(), seed=0, views=views, **settings) as batches:
            torch.rand(settings.get("data_workers", 0))  # the state of the global generator does not matter
            before = torch.get_rng_state()
            found = epoch(batches, number)
            assert torch.equal(torch.get_rng_state(), before)
            return found

    first = drawn(augmentation=Noise())
    assert equal(first, drawn(augmentation=Noise(), data_workers=2))
    plain = drawn()
    for noisy, base in zip(first, plain, strict=True):
        assert torch.equal(noisy.indices, base.indices)
        assert not torch.equal(noisy.images, base.images)
        added = noisy.images - base.images
        assert not torch.equal(added[0], added[1])
        assert views == 1 or not torch.equal(added[0], (noisy.view(1) - base.view(1))[0])
    assert not equal(first, drawn(1, augmentation=Noise()))


def test_a_sampler_of_the_users_draws_the_batches(glyphs_split, make_protocol):
    def sampler(labels, steps, batch_size, samples_per_class, rng):
        assert samples_per_class == 2
        return rng.integers(len(labels), size=(steps, batch_size))

    found = [epoch(TrainingBatches(glyphs_split, make_protocol(), 0, sampler=sampler), 0) for _ in range(2)]
    assert equal(*found)
    assert not equal(found[0], epoch(TrainingBatches(glyphs_split, make_protocol(), 0), 0))
    assert all(torch.equal(glyphs_split.labels[batch.indices], batch.labels) for batch in found[0])
