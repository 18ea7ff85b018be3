"""A training batch, and how batches reach a device: on CUDA beside the work on the one before."""

from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A training batch on its device.

    Attributes:
        images: (B, C, H, W) float32, normalised, in the protocol's memory layout.
        labels: (B,) int64.
        indices: (B,) int64, the place of each image in the training split; an image may be drawn twice.
        others: Further augmentations of the same images, each like `images`, where a method asks for them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    others: tuple[Tensor, ...] = ()

    def view(self, number: int) -> Tensor:
        """An augmentation of the images, counted from 0."""
        return self.others[number - 1] if number else self.images


Host = TypeVar("Host")
Ready = TypeVar("Ready", Tensor, Batch)


def ahead(
    batches: Iterable[Host], finish: Callable[[Host], Ready], device: torch.device
) -> Generator[Ready, None, None]:
    """Finish batches for a device; on CUDA the next one is copied and finished beside the work on this one.

    Args:
        batches: Host batches, page-locked for CUDA.
        finish: Copies one to the device without blocking, and finishes it there; gives tensors of the device.
        device: The device.
    """
    if device.type != "cuda":
        yield from map(finish, batches)
        return
    side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    waiting: list[tuple[Ready, torch.cuda.Event]] = []
    for batch in batches:
        with torch.cuda.stream(side):
            ready = finish(batch)
            waiting.append((ready, side.record_event()))
        if len(waiting) > 1:
            yield _handed_over(*waiting.pop(0), current)
    for item in waiting:
        yield _handed_over(*item, current)


def _handed_over(ready: Ready, done: torch.cuda.Event, current: torch.cuda.Stream) -> Ready:
    """Let the training stream wait for a batch, and the allocator know that it uses it."""
    current.wait_event(done)
    parts = (*ready[:3], *ready.others) if isinstance(ready, Batch) else (ready,)
    for tensor in parts:
        tensor.record_stream(current)
    return ready
