from dataclasses import replace

import numpy as np
import pytest
import torch

from dmlbench.data import catalogue
from dmlbench.data.family import LabelledImages, fingerprint
from dmlbench.data.images import Split, load_dataset, split_classes
from dmlbench.errors import UserError
from dmlbench.specs.cell import DatasetSpec


@pytest.fixture
def split():
    """Ten classes of three 1-pixel images; a pixel tells its class."""
    labels = torch.arange(10).repeat_interleave(3)
    return Split(labels.to(torch.uint8)[:, None, None, None], labels, tuple(f"class{k}" for k in range(10)))


def test_nothing_held_out(split):
    train, validation = split_classes(split, 0.0)
    assert train is split
    assert validation is None


@pytest.mark.parametrize(("fraction", "held_out"), [(0.01, 2), (0.2, 2), (0.34, 3), (0.5, 5), (0.8, 8)])
def test_held_out_classes(split, fraction, held_out):
    train, validation = split_classes(split, fraction)
    assert len(validation.class_names) == held_out
    assert set(train.class_names) | set(validation.class_names) == set(split.class_names)
    assert len(train.class_names) == 10 - held_out
    for part in (train, validation):
        assert part.labels.dtype == torch.int64
        assert part.labels.tolist() == [label for label in range(len(part.class_names)) for _ in range(3)]
        assert [f"class{pixel}" for pixel in part.images.flatten().tolist()] == [
            part.class_names[label] for label in part.labels
        ]


def test_the_choice_is_fixed(split):
    chosen = split_classes(split, 0.3)[1].class_names
    assert chosen == split_classes(split, 0.3)[1].class_names
    assert chosen not in {split.class_names[:3], split.class_names[-3:]}  # shuffled, not cut off


def test_too_few_classes_left(split):
    with pytest.raises(UserError, match="9 of 10 training classes"):
        split_classes(split, 0.9)


def test_fingerprint_sees_pixels_labels_and_names():
    arrays = LabelledImages(np.zeros((2, 1, 3, 3), np.uint8), np.array([0, 1]), ("a", "b"))
    pixels = arrays.images.copy()
    pixels[1, 0, 2, 2] = 1
    others = [
        replace(arrays, images=pixels),
        replace(arrays, labels=np.array([1, 0])),
        replace(arrays, class_names=("a", "c")),
        replace(arrays, images=arrays.images.reshape(2, 1, 9, 1)),
    ]
    assert len({fingerprint(arrays), *(fingerprint(other) for other in others)}) == 5
    assert fingerprint(arrays) == fingerprint(replace(arrays, labels=np.array([0, 1], dtype=np.int32)))


def test_counts_are_checked(glyphs_drawn, monkeypatch):
    info = replace(catalogue.DATASETS["glyphs"], test_images=1_999)
    monkeypatch.setitem(catalogue.DATASETS, "glyphs", info)
    with pytest.raises(UserError, match="1999"):
        load_dataset(DatasetSpec(name="glyphs", version="1"))


def test_loaded_tensors(fake_omniglot):
    dataset = load_dataset(DatasetSpec(name="omniglot-small", version="x"), fake_omniglot)
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.train.labels.dtype == torch.int64
    assert dataset.name == "omniglot-small"


def test_held_out_training_classes_stand_in_for_the_test_classes(glyphs_drawn):
    spec = DatasetSpec(name="glyphs", version="1")
    whole = load_dataset(spec)
    dataset = load_dataset(spec.model_copy(update={"held_out": 0.25}))
    sides = split_classes(whole.train, 0.25)
    assert [dataset.train.class_names, dataset.test.class_names] == [side.class_names for side in sides]
    assert [len(dataset.train.images), len(dataset.test.images)] == [len(side.images) for side in sides]
    assert torch.equal(dataset.test.images, sides[1].images)
    assert not {*dataset.train.class_names, *dataset.test.class_names} - {*whole.train.class_names}
    assert dataset.fingerprint == whole.fingerprint
