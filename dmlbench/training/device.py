"""The device a cell runs on, the process state its numbers depend on, and where the time of a step goes.

`PhaseClock` never stops the device. On CUDA, events bracket each phase and are read once, at the end of the epoch; on
a CPU it reads the monotonic clock. The wait for data is host time on both, so on CUDA it overlaps the other phases and
their sum may exceed the epoch's time. Copies to the device overlap the phases and belong to none. Where the host is
slower than the device, as with small networks, a phase's events also span the device's waits for its next launch.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from threadpoolctl import threadpool_limits

from dmlbench.errors import UserError
from dmlbench.specs.protocol_spec import TrainingSpec

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; raises UserError where CUDA is asked for and absent."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch sees no CUDA device", hint="valid: auto, cpu; see `dmlbench doctor`")
    return torch.device("cuda:0" if name == "cuda" else name)


def prepare(training: TrainingSpec, device: torch.device) -> None:
    """Set threads and determinism as the protocol says: both change sums, so both are part of the spec."""
    torch.set_num_threads(training.cpu_threads)
    threadpool_limits(training.cpu_threads)
    if device.type == "cuda":
        # cuBLAS reads this when its first handle is made; without it sums depend on the stream's workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)  # events and synchronisation act on the current device
        torch.cuda.reset_peak_memory_stats(device)
        # Float32 is float32 unless the protocol says otherwise: torch lets convolutions round to TF32.
        check_tf32(training)
        torch.backends.cudnn.allow_tf32 = training.float32_convolutions == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = False
    if training.compile:
        check_compiler(device)
        _choose_kernels(training)
    torch.use_deterministic_algorithms(training.deterministic)
    # Every new tensor would be filled with NaN first, two thirds of all launches of a step; no bit depends on it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = training.deterministic
    torch.backends.cudnn.benchmark = not training.deterministic


# Variables that decide over TF32 whatever a program asks for: no result would record it.
OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


def check_tf32(training: TrainingSpec) -> None:
    """Raise UserError where a variable of the environment has another TF32 than the protocol; 0 is IEEE's float32."""
    for name in OVERRIDES:
        value, asked = os.environ.get(name), training.float32_convolutions
        if value is not None and not (value == "0" and (asked == "ieee" or name != OVERRIDES[0])):
            what = f"{name}={value}: decides over TF32 in place of training.float32_convolutions ({asked})"
            raise UserError(what, hint=f"unset {name}")


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile cannot make code for a device."""
    hint = "--set training.compile=false"
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            said = "training.compile: no C++ compiler was found, which a CPU's code needs"
            raise UserError(said, hint=f"install g++, or {hint}") from error
    elif find_spec("triton") is None:
        raise UserError("training.compile: a GPU's code needs triton", hint=f"pip install triton, or {hint}")


def _choose_kernels(training: TrainingSpec) -> None:
    """Choose the compiler's kernels by rule in place of timing them, where a deterministic protocol compiles."""
    from torch._inductor import config

    if hasattr(config, "deterministic"):
        config.deterministic = training.deterministic
    elif training.deterministic:
        said = f"training.compile: torch {torch.__version__} chooses kernels by their time, which is not deterministic"
        raise UserError(said, hint="a later torch, or --set training.deterministic=false")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass on a device; `none` changes nothing."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


PHASES = ("data", "forward", "loss", "teacher", "distillation", "backward", "optimiser")
Mark = float | torch.cuda.Event


class PhaseClock:
    """Adds up the time of each phase over an epoch."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: dict[str, list[tuple[Mark, Mark]]] = {}
        self._open: tuple[str, Mark] | None = None  # the innermost phase, and when it began or resumed

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
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    return float(start.elapsed_time(end)) / 1000  # type: ignore[union-attr,arg-type]  # both marks are of one kind
