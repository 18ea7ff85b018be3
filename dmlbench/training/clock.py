"""Where a training step's time goes, measured without stopping the device.

On CUDA every phase is bracketed by events that are read once, at the end of the epoch; on a CPU by the monotonic
clock. The wait for data is host time on both, so on CUDA it overlaps the other phases and the sum of all may exceed
the epoch's time. On CUDA the copies to the device and the resizing there run beside the
other phases and belong to none.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PHASES = ("data", "forward", "loss", "teacher", "distillation", "backward", "optimiser")
Mark = float | torch.cuda.Event


class PhaseClock:
    """Adds up the time of each phase over an epoch."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: dict[str, list[tuple[Mark, Mark]]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one occurrence of a phase."""
        # Waiting for the host's loader is no work of the device, so it is measured where it happens.
        cuda = self._cuda and name != "data"
        start = _mark(cuda)
        try:
            yield
        finally:
            self._spans.setdefault(name, []).append((start, _mark(cuda)))

    def seconds(self) -> dict[str, float]:
        """Seconds by phase since the last call; waits for the device once."""
        if self._cuda:
            torch.cuda.synchronize()
        totals = {name: sum(_elapsed(*span) for span in spans) for name, spans in self._spans.items()}
        self._spans = {}
        return totals


def _mark(cuda: bool) -> Mark:
    if not cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _elapsed(start: Mark, end: Mark) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return float(start.elapsed_time(end)) / 1000
    assert isinstance(start, float)  # noqa: S101 - narrows the type: a span's two marks are of one kind
    assert isinstance(end, float)  # noqa: S101
    return end - start
