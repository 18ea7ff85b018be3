"""Time candidates against each other on a machine whose speed drifts."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds a call took, per candidate: one entry a round, rounds aligned across candidates."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of one call."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> float:
        """Return the median over rounds of the time of `name` over that of `baseline` in the same round."""
        pairs = zip(self.seconds[name], self.seconds[baseline], strict=True)
        return statistics.median(mine / its for mine, its in pairs)


def interleave(candidates: dict[str, Callable[[], object]], rounds: int = 50, warm_up: int = 5) -> Timings:
    """Call every candidate once a round, so that whatever slows the machine slows them alike.

    Each round starts at another candidate: no one always finds the caches its predecessor left.
    """
    for _ in range(warm_up):
        for call in candidates.values():
            call()
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            begin = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - begin)
    return Timings(seconds)
