"""The device a cell runs on, and the process state that its numbers depend on."""

import os

import torch
from threadpoolctl import threadpool_limits

from dmlbench.errors import UserError
from dmlbench.specs.cell import TrainingSpec

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
        # Float32 is float32: torch lets convolutions round to TF32, and only on some GPUs.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(training.deterministic)
    torch.backends.cudnn.deterministic = training.deterministic
    torch.backends.cudnn.benchmark = not training.deterministic


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass on a device; `none` changes nothing."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
