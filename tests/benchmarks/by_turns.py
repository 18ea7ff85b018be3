"""Seconds of candidates called by turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from dmlbench.interleave import interleave


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


def time_by_turns(candidates: dict[str, Callable[[], object]], rounds: int = 50, warm_up: int = 5) -> Timings:
    """Call every candidate once a round, after rounds that only warm up."""

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin

        return run

    return Timings(interleave({name: timed(call) for name, call in candidates.items()}, rounds, warm_up))
