"""How much memory a training step takes at its height, told apart from what else the process holds."""

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dmlbench.training.learner import Learner


def peak_bytes(learner: Learner, step: Callable[[], object]) -> int:
    """Memory at the height of a step: what the learner keeps between steps, and what the step adds.

    On CUDA by the allocator's own count; on a CPU by torch's profiler, which sees torch's allocations alone and not
    the workspace of a library. Batches do not count.

    Args:
        learner: A learner that has taken steps.
        step: Takes one more.
    """
    device = learner.device
    for member in learner.members:
        member.optimizer.zero_grad(set_to_none=True)
    storages = [tensor.untyped_storage() for tensor in _kept(learner)]
    kept = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    return kept + (_added_on_cuda(device, step) if device.type == "cuda" else _added_on_cpu(step))


def _kept(learner: Learner) -> Iterator[Tensor]:
    """What stays between steps; not the gradients, which a step lets go of before it makes its own."""
    teacher = getattr(learner.modifier, "teacher", None)
    parts = [part for member in learner.members for part in (member.model, member.criterion)]
    for part in (*parts, learner.modifier, teacher, getattr(teacher, "network", None)):
        if isinstance(part, nn.Module):
            yield from (value for value in part.state_dict(keep_vars=True).values() if isinstance(value, Tensor))
    for member in learner.members:
        for state in member.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _added_on_cuda(device: torch.device, step: Callable[[], object]) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _added_on_cpu(step: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells of its start, and of a GPU that is not there
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    # The profiler's total is that of all it has ever seen, so what counts is how far it rises.
    total = itertools.accumulate((int(event["args"]["Bytes"]) for event in changes), initial=0)
    return max(total)
