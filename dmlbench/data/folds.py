"""Class-disjoint folds of the training classes, by which tuning chooses: whole superclasses where the data has them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dmlbench.errors import UserError
from dmlbench.seeding import stream
from dmlbench.specs.dataset import Fold

FEWEST = 2  # classes of a fold: with one, nothing but distractors could be mistaken for a positive


def fold_mask(class_names: Sequence[str], fold: Fold) -> NDArray[np.bool_]:
    """Which classes a fold holds, (C,).

    A superclass is what a class's name has before its last `/`, such as an alphabet. Folds are made of whole ones, the
    largest first into the smallest fold, so that they are as equal as whole ones allow. Where there are fewer
    superclasses than folds, or a fold would have a single class, folds are made of classes one by one.

    Args:
        class_names: C names of training classes.
        fold: Which, of how many, and the seed that draws what goes where.

    Raises:
        UserError: Fewer than two classes for each fold.
    """
    if len(class_names) < FEWEST * fold.folds:
        raise UserError(
            f"{len(class_names)} training classes are too few for {fold.folds} folds of at least {FEWEST} classes",
            hint=f"train on {FEWEST * fold.folds} classes or more",
        )
    found = _assigned([name.rpartition("/")[0] for name in class_names], fold)
    if np.bincount(found, minlength=fold.folds).min() < FEWEST:
        found = _assigned(list(class_names), fold)
    tested: NDArray[np.bool_] = found == fold.number
    return tested


def _assigned(superclasses: Sequence[str], fold: Fold) -> NDArray[np.int64]:
    """The fold of each class, (C,), such that a superclass is in one."""
    names, group, sizes = np.unique(np.array(superclasses, dtype=object), return_inverse=True, return_counts=True)
    draw = stream(fold.study_seed, fold.partition, "tuning folds")
    shuffled = draw.permutation(len(names))
    filled, place = np.zeros(fold.folds, dtype=np.int64), np.zeros(len(names), dtype=np.int64)
    for each in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        place[each] = np.argmin(filled)
        filled[place[each]] += sizes[each]
    # Which fold is tested first must not follow from the size of its superclasses.
    numbers: NDArray[np.int64] = draw.permutation(fold.folds)[place[group]]
    return numbers


def held_out_classes(classes: int, fraction: float) -> int:
    """How many of the training classes are held out for validation: the fraction, rounded and at least 2; 0 for 0.

    Raises:
        UserError: Fewer than 2 classes would remain for training.
    """
    held_out = max(2, round(fraction * classes)) if fraction else 0
    if held_out and classes - held_out < 2:
        what = f"validation.classes: holding out {held_out} of {classes} training classes leaves fewer than 2"
        raise UserError(what, hint="choose a smaller fraction, or 0")
    return held_out
