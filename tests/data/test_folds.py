"""Folds of training classes: disjoint, of one size as far as whole superclasses allow, drawn by the study's seed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmlbench.data.folds import fold_mask
from dmlbench.data.images import load_dataset
from dmlbench.errors import UserError
from dmlbench.specs.dataset import DatasetSpec, Fold

GLYPHS = tuple(f"alphabet{number}/character{k:02d}" for number in range(10) for k in range(10))
OMNIGLOT = {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Korean": 40, "Latin": 26}


def folds(names, count=4, study_seed=0) -> np.ndarray:
    """(folds, C)."""
    return np.stack([fold_mask(names, Fold(number=n, folds=count, study_seed=study_seed)) for n in range(count)])


@given(st.integers(8, 60), st.integers(2, 4), st.integers(0, 20))
def test_every_class_is_in_one_fold_and_folds_have_one_size(classes, count, study_seed):
    found = folds([f"class{k}" for k in range(classes)], count, study_seed)
    assert (found.sum(axis=0) == 1).all()
    assert max(found.sum(axis=1)) - min(found.sum(axis=1)) <= 1


def test_superclasses_stay_whole():
    found = folds(GLYPHS)
    assert sorted(found.sum(axis=1)) == [20, 20, 30, 30]
    for own in found:
        held = {name.partition("/")[0] for name, mine in zip(GLYPHS, own, strict=True) if mine}
        assert own.sum() == 10 * len(held)


def test_the_largest_superclasses_come_first_into_the_smallest_fold():
    names = [f"{alphabet}/character{k}" for alphabet, count in OMNIGLOT.items() for k in range(count)]
    for study_seed in range(5):
        assert sorted(folds(names, study_seed=study_seed).sum(axis=1)) == [24, 26, 40, 46]


@pytest.mark.parametrize(
    "names",
    [
        [f"alphabet{k % 3}/{k}" for k in range(12)],  # fewer superclasses than folds
        [*(f"big{k % 3}/{k}" for k in range(11)), "alone/0"],  # a fold of one class
    ],
)
def test_single_classes_where_superclasses_would_not_do(names):
    assert folds(names).sum(axis=1).tolist() == [3, 3, 3, 3]


def test_another_study_has_other_folds_and_another_first_one():
    every = [folds(GLYPHS, study_seed=seed) for seed in range(4)]
    assert all(not np.array_equal(one, other) for one, other in pairwise(every))
    assert np.array_equal(every[0], folds(GLYPHS))
    names = [f"{alphabet}/character{k}" for alphabet, count in OMNIGLOT.items() for k in range(count)]
    assert len({folds(names, study_seed=seed)[0].sum() for seed in range(20)}) == 4


def test_partitions_of_a_study_are_drawn_apart():
    names = [f"class{number}" for number in range(100)]
    one, other = (fold_mask(names, Fold(number=0, folds=4, partition=part)) for part in (0, 1))
    assert one.sum() == other.sum()
    assert not np.array_equal(one, other)


def test_too_few_classes():
    with pytest.raises(UserError, match="7 training classes are too few for 4 folds of at least 2 classes; train on 8"):
        folds([f"class{k}" for k in range(7)])


def test_a_fold_stands_in_for_the_test_classes(glyphs_drawn):
    whole = DatasetSpec(name="glyphs", version="1")
    train = load_dataset(whole).train
    parts = [load_dataset(whole.model_copy(update={"fold": Fold(number=n, folds=4)})) for n in range(4)]
    assert sorted(name for part in parts for name in part.test.class_names) == sorted(train.class_names)
    for part in parts:
        assert not {*part.train.class_names} & {*part.test.class_names}
        assert len(part.train.labels) + len(part.test.labels) == len(train.labels)
        assert part.test.labels.unique().tolist() == list(range(len(part.test.class_names)))
        assert part.test.images.dtype == torch.uint8


def test_what_a_fold_changes_of_a_dataset():
    plain = DatasetSpec(name="glyphs", version="1")
    one, other = (plain.model_copy(update={"fold": Fold(number=n, folds=4, study_seed=n)}) for n in (0, 1))
    assert plain.identity() == {"name": "glyphs", "version": "1"}
    assert one.identity() != other.identity()
    assert one.label == "glyphs (tested on fold 1 of 4 of its training classes)"
    assert other.label == "glyphs (tested on fold 2 of 4 of its training classes, study 1)"
    again = plain.model_copy(update={"fold": Fold(number=0, folds=4, partition=1)})
    assert again.identity() != one.identity()
    assert again.label == "glyphs (tested on fold 1 of 4 of its training classes, partition 2)"
    assert DatasetSpec.model_validate(one.model_dump(mode="json")) == one
    with pytest.raises(ValueError, match="must be below folds"):
        Fold(number=4, folds=4)
    with pytest.raises(ValueError, match="held_out and fold exclude each other"):
        DatasetSpec(name="glyphs", version="1", held_out=0.2, fold=Fold(number=0, folds=4))
