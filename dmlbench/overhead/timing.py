"""What a training step of each method costs, in time and memory: interleaved, in one process on one device.

A step is what `Trainer.step` does with a batch that is on the device already: what a method adds is nothing that a
data loader could hide. It is measured in the last epoch, where the weight of a teacher is highest; the first has none.
"""

import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dmlbench.data.loader import Batch
from dmlbench.overhead.operations import operations
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.training.build import TrainingSet
from dmlbench.training.device import PHASES
from dmlbench.training.trainer import Trainer

TURN_SECONDS = 0.2  # what a turn lasts at least: one step of a small network is too short to time
SYNTHETIC_SET = TrainingSet(classes=100, images=5900)  # about CUB's training half
BATCHES = 4


@dataclass(frozen=True)
class StepCost:
    """What one method's step costs.

    Attributes:
        step_ms: Milliseconds a step, one value per round.
        phases_ms: The same by phase of `PhaseClock`; what a phase does not cover is the host's.
        peak_mb: Memory in MiB at the height of a step: weights, gradients, optimiser, teacher, activations.
        gflop: Multiplications and additions of a step's convolutions, matrix products and attention, in 10^9.
    """

    step_ms: list[float]
    phases_ms: dict[str, list[float]]
    peak_mb: float
    gflop: float


def synthetic_batches(protocol: ProtocolSpec, device: torch.device, views: int = 1) -> list[Batch]:
    """Batches of the protocol's shape, of random pixels, classes and images: the cost does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    spec, training = protocol.input, protocol.training
    layout = torch.channels_last if training.channels_last else torch.contiguous_format
    shape = (training.batch_size, spec.channels, spec.size, spec.size)

    def batch() -> Batch:
        images = torch.randn(shape, generator=generator).to(device, memory_format=layout)
        draws = training.batch_size // training.samples_per_class
        labels = torch.randint(SYNTHETIC_SET.classes, (draws,), generator=generator)
        labels = labels.repeat_interleave(training.samples_per_class)
        indices = torch.randint(SYNTHETIC_SET.images, (training.batch_size,), generator=generator)
        others = [torch.randn(shape, generator=generator).to(device, memory_format=layout) for _ in range(views - 1)]
        return Batch(images, labels.to(device), indices.to(device), tuple(others))

    return [batch() for _ in range(BATCHES)]


def measure_steps(
    trainers: Mapping[str, Trainer],
    batches: Sequence[Batch],
    rounds: int,
    warm_up: int,
    tell: Callable[[], None] = lambda: None,
    *,
    order: int = 0,
) -> dict[str, StepCost]:
    """Measure every method's step with the batches in turn, in rounds as of `interleave`, all on one device."""
    turns = {name: _Turn(trainer, batches) for name, trainer in trainers.items()}
    steps = math.ceil(TURN_SECONDS / min(turn.probe() for turn in turns.values()))
    candidates = {name: partial(turn.take, steps) for name, turn in turns.items()}
    kept = interleave(candidates, rounds, warm_up, tell, order=order)
    return {
        name: StepCost(
            step_ms=[1000 * measured["train"] / steps for measured in kept[name]],
            phases_ms={
                phase: [1000 * measured[phase] / steps for measured in kept[name]]
                for phase in PHASES
                if any(measured.get(phase) for measured in kept[name])
            },
            peak_mb=peak_bytes(turn.trainer, turn.step) / 2**20,
            gflop=turn.flop() / 1e9,
        )
        for name, turn in turns.items()
    }


class _Turn:
    """One method's turns: a trainer in its last epoch, and batches without end."""

    def __init__(self, trainer: Trainer, batches: Sequence[Batch]) -> None:
        self.trainer = trainer
        self._batches = itertools.cycle(batches)
        device = batches[0].images.device
        self._generator = torch.Generator(device).manual_seed(0)
        trainer.train()
        for batch in batches:  # an epoch without a teacher, which a memory learns from
            trainer.step(batch, 0, self._generator)
        trainer.end_epoch()

    def step(self) -> tuple[Tensor, Tensor]:
        """Take a step of the last epoch."""
        return self.trainer.step(next(self._batches), self.trainer.epochs - 1, self._generator)

    def take(self, steps: int) -> dict[str, float]:
        """Take so many steps: the seconds of all of them (`train`), and of each phase."""
        with self.trainer.clock.phase("train"):
            for _ in range(steps):
                self.step()
        return self.trainer.clock.seconds()

    def probe(self) -> float:
        """Seconds that a step takes, roughly."""
        self.step()
        self.trainer.clock.seconds()  # waits for the device
        begun = time.perf_counter()
        self.step()
        self.trainer.clock.seconds()
        return time.perf_counter() - begun

    def flop(self) -> int:
        """Floating-point operations of a step."""
        count = operations(self.step)
        self.trainer.clock.seconds()
        return count


def peak_bytes(trainer: Trainer, step: Callable[[], object]) -> int:
    """Memory at the height of a step: what the trainer keeps between steps, and what the step adds.

    On CUDA by the allocator's own count; on a CPU by torch's profiler, which sees torch's allocations alone and not
    the workspace of a library. Batches do not count. The trainer has taken steps; `step` takes one more.
    """
    device = trainer.device
    for network in trainer.networks:
        network.optimizer.zero_grad(set_to_none=True)
    storages = [tensor.untyped_storage() for tensor in _kept(trainer)]
    kept = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    return kept + (_added_on_cuda(device, step) if device.type == "cuda" else _added_on_cpu(step))


def _kept(trainer: Trainer) -> Iterator[Tensor]:
    """What stays between steps; not the gradients, which a step lets go of before it makes its own."""
    teacher = getattr(trainer.modifier, "teacher", None)
    parts = [part for own in trainer.networks for part in (own.model, own.criterion)]
    for part in (*parts, trainer.modifier, teacher, getattr(teacher, "network", None)):
        if isinstance(part, nn.Module):
            yield from (value for value in part.state_dict(keep_vars=True).values() if isinstance(value, Tensor))
    for network in trainer.networks:
        for state in network.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _added_on_cuda(device: torch.device, step: Callable[[], object]) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _added_on_cpu(step: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports its start, and that there is no GPU
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


Measured = TypeVar("Measured")


def interleave(
    candidates: Mapping[str, Callable[[], Measured]],
    rounds: int,
    warm_up: int,
    tell: Callable[[], None] = lambda: None,
    *,
    order: int = 0,
) -> dict[str, list[Measured]]:
    """Call every candidate once a round, in an order shuffled for each round, and keep what the calls return.

    A temporary slowdown of the machine affects all of them equally. No candidate always follows the same other one, so
    none always finds the caches that another left.

    Args:
        candidates: What to call, by name; each measures itself.
        rounds: Rounds whose measurements are kept.
        warm_up: Rounds before them whose measurements are dropped.
        tell: Is called after every round.
        order: Which orders: another number gives others, the same in every run.

    Returns:
        `rounds` measurements of each candidate, in the order of the rounds: the n-th of all are of one round.
    """
    generator = np.random.default_rng(order)
    names = list(candidates)
    kept: dict[str, list[Measured]] = {name: [] for name in names}
    for turn in range(warm_up + rounds):
        for index in generator.permutation(len(names)):
            measured = candidates[names[index]]()
            if turn >= warm_up:
                kept[names[index]].append(measured)
        tell()
    return kept
