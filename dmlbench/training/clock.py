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
        self._open: tuple[str, Mark] | None = None  # the innermost phase, and when it began or went on

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one occurrence of a phase; that of a phase within another one counts for itself alone."""
        # Waiting for the host's loader is no work of the device, so it is measured where it happens.
        cuda = self._cuda and name != "data"
        begun, outer = _mark(cuda), self._open
        counted = name in PHASES  # what is measured as a whole includes its phases
        if counted:
            if outer:
                self._spans.setdefault(outer[0], []).append((outer[1], begun))
            self._open = (name, begun)
        try:
            yield
        finally:
            end = _mark(cuda)
            start = self._open[1] if counted and self._open else begun
            self._spans.setdefault(name, []).append((start, end))
            if counted:
                self._open = (outer[0], end) if outer else None

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
