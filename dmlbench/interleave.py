"""Calls candidates by turns, so that whatever slows a machine for a while slows all of them alike."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

Measured = TypeVar("Measured")


def interleave(
    candidates: Mapping[str, Callable[[], Measured]],
    rounds: int,
    warm_up: int,
    tell: Callable[[], None] = lambda: None,
    *,
    order: int = 0,
) -> dict[str, list[Measured]]:
    """Call every candidate once a round, in an order shuffled for each round, and keep what the calls return.

    No candidate always follows the same other one, so none always finds the caches that another left. The orders are
    the same in every run of one `order`.

    Args:
        candidates: What to call, by name; each measures itself.
        rounds: Rounds whose measurements are kept.
        warm_up: Rounds before them whose measurements are dropped.
        tell: Is called after every round.
        order: Which orders: another number gives others.

    Returns:
        `rounds` measurements of each candidate, in the order of the rounds: the n-th of all are of one round.
    """
    generator = np.random.default_rng(order)
    names = list(candidates)
    kept: dict[str, list[Measured]] = {name: [] for name in names}
    for turn in range(warm_up + rounds):
        for index in generator.permutation(len(names)):
            measured = candidates[names[index]]()
            if turn >= warm_up:
                kept[names[index]].append(measured)
        tell()
    return kept
