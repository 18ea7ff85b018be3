import multiprocessing
import time

import pytest
import torch

from dmlbench.data.augment import evaluation_geometry
from dmlbench.data.images import Split
from dmlbench.data.loader import CACHED_EVALUATION_BYTES, EvaluationBatches, TrainingBatches

# Python 3.12 warns of any fork once a library has started threads; workers run none of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def epoch(batches, number):
    return list(batches.epoch(number))


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(images, others) and torch.equal(labels, other_labels)
        for (images, labels), (others, other_labels) in zip(first, second, strict=True)
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
    for images, labels in drawn:
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
    for images, drawn in epoch(batches, 0):
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
    drawn = torch.cat([images for number in (0, 1) for images, _ in batches.epoch(number)])
    assert len(drawn) == 448  # two steps in each of two epochs
    assert len(drawn.flatten(1).unique(dim=0)) == 448


def test_augmentation_leaves_the_sampler_alone(glyphs_split, make_protocol):
    plain, jittered = (
        TrainingBatches(glyphs_split, make_protocol(augmentation=name), seed=0) for name in ("none", "affine")
    )
    for (_, labels), (_, others) in zip(plain.epoch(0), jittered.epoch(0), strict=True):
        assert torch.equal(labels, others)


@pytest.mark.parametrize("augmentation", ["affine", "crop"])
def test_workers_change_no_bit(glyphs_split, make_protocol, augmentation):
    protocol = make_protocol(augmentation=augmentation, batch_size=448)
    alone = TrainingBatches(glyphs_split, protocol, seed=0)
    with TrainingBatches(glyphs_split, protocol, seed=0, data_workers=2) as shared:
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


@pytest.mark.parametrize("limit", [CACHED_EVALUATION_BYTES, 0])
def test_evaluation_batches(glyphs_split, make_protocol, monkeypatch, limit):
    monkeypatch.setattr("dmlbench.data.loader.CACHED_EVALUATION_BYTES", limit)
    protocol = make_protocol(mean=(0.5,), std=(0.25,))
    batches = EvaluationBatches(glyphs_split, protocol, batch_size=300)
    expected = (evaluation_geometry(glyphs_split.images, protocol.input) - 0.5) / 0.25
    for _ in range(2):
        parts = list(batches)
        assert len(parts) == len(batches) == 7
        assert [len(part) for part in parts] == [300] * 6 + [200]
        assert torch.equal(torch.cat(parts), expected)


def test_evaluation_batch_size_is_the_protocols_by_default(glyphs_split, make_protocol):
    protocol = make_protocol()
    assert len(next(iter(EvaluationBatches(glyphs_split, protocol)))) == protocol.evaluation.batch_size
