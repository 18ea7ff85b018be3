"""Seconds of candidates called by turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from dmlbench.analysis.statistics import median_interval
from dmlbench.overhead.timing import interleave

FEWEST = 10  # rounds below which a bootstrap of their median covers less than it says


@dataclass(frozen=True)
class Timings:
    """Seconds a call took, per candidate: one entry a round, rounds aligned across candidates."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of one call."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> float:
        """Return the median over rounds of the time of `name` over that of `baseline` in the same round."""
        return statistics.median(self._ratios(name, baseline))

    def ratio_cells(self, name: str, baseline: str, digits: int = 2) -> dict[str, str]:
        """Cells of a table: the ratio with its interval, and the number of rounds.

        The interval is the bootstrap's of 95%; of fewer than ten rounds, which give none, the lowest and highest ratio.
        """
        ratios = self._ratios(name, baseline)
        found = median_interval(ratios)
        ends = (found.low, found.high) if len(ratios) >= FEWEST else (min(ratios), max(ratios))
        shown = "1" if name == baseline else f"{found.mean:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
        return {"ratio": shown, "rounds": str(len(ratios))}

    def _ratios(self, name: str, baseline: str) -> list[float]:
        return [mine / its for mine, its in zip(self.seconds[name], self.seconds[baseline], strict=True)]


def time_by_turns(candidates: dict[str, Callable[[], object]], rounds: int = 50, warm_up: int = 5) -> Timings:
    """Call every candidate once a round, after rounds that only warm up."""

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin

        return run

    return Timings(interleave({name: timed(call) for name, call in candidates.items()}, rounds, warm_up))
