"""On the null GPU: convolutions, which cuDNN would plan for real memory, and what was counted."""

import ctypes
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

LIBRARY = "libnullgpu.so"
_OWN = torch.library.Library("aten", "IMPL")


@dataclass
class Counts:
    """What reached the GPU; copies to the host and synchronisations make the host wait.

    Attributes:
        kernels: Launches and library calls by name.
        calls: All other calls by name.
        page_locked_bytes: Of the host's memory, at the end.
    """

    launches: int = 0
    library_calls: int = 0
    synchronisations: int = 0
    copies_to_host: int = 0
    copies_to_device: int = 0
    pageable_copies_to_device: int = 0
    copies_on_device: int = 0
    kernels: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    page_locked_bytes: int = 0

    @property
    def waits(self) -> int:
        """How often the host waited for the GPU."""
        return self.synchronisations + self.copies_to_host + self.pageable_copies_to_device


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what reaches the GPU inside; the figures are there at the end."""
    library, counts = _library(), Counts()
    library.nullgpu_reset()
    yield counts
    found = json.loads(library.nullgpu_report())
    for name, value in found["totals"].items():
        setattr(counts, name, value)
    counts.kernels, counts.calls = found["kernels"], found["calls"]
    counts.page_locked_bytes = found["page_locked_bytes"]


def install() -> None:
    """Replace PyTorch's convolutions on CUDA; once in a process."""
    _OWN.impl("convolution", _convolution, "CUDA")
    _OWN.impl("convolution_backward", _convolution_backward, "CUDA")


@cache
def _library() -> ctypes.CDLL:
    folder = next(Path(part) for part in os.environ["LD_LIBRARY_PATH"].split(":") if "nullgpu" in part)
    library = ctypes.CDLL(str(folder / LIBRARY))
    library.nullgpu_report.restype = ctypes.c_char_p
    return library


@contextmanager
def _unfilled() -> Iterator[None]:
    """cuDNN's own outputs are not filled in deterministic mode."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled


def _convolution(  # noqa: PLR0917 - the operator's own signature
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    if x.device != weight.device or x.dtype != weight.dtype:
        raise RuntimeError(f"a convolution of {x.device}, {x.dtype} with {weight.device}, {weight.dtype}")
    _library().nullgpu_library_call(b"convolution")
    size = [
        (full + 2 * pad - spread * (kernel - 1) - 1) // step + 1
        for full, kernel, pad, step, spread in zip(
            x.shape[2:], weight.shape[2:], _both(padding), _both(stride), _both(dilation), strict=True
        )
    ]
    last = any(own.is_contiguous(memory_format=torch.channels_last) for own in (x, weight))
    layout = torch.channels_last if last else torch.contiguous_format
    with _unfilled():
        out = torch.empty((len(x), len(weight), *size), device=x.device, dtype=x.dtype, memory_format=layout)
    return out if bias is None else out.add_(bias.view(1, -1, 1, 1))


def _both(values: Sequence[int]) -> list[int]:
    return list(values) * 2 if len(values) == 1 else list(values)


def _convolution_backward(  # noqa: PLR0917 - the operator's own signature
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Sequence[int] | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    with _unfilled():
        parts = [torch.empty_like(own) if asked else None for own, asked in zip((x, weight), mask, strict=False)]
    for asked, name in zip(
        mask, (b"convolution of inputs, backward", b"convolution of weights, backward"), strict=False
    ):
        if asked:
            _library().nullgpu_library_call(name)
    return (*parts, gradient.sum((0, 2, 3)) if mask[2] else None)
