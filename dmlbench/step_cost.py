"""What a training step of each method costs: all in one process on one device, by turns.

A step is what `Learner.step` does with a batch that lies on the device already: what a method adds is nothing that a
data loader could hide. It is measured in the last epoch, where a teacher has its full say; in the first there is none.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmlbench.data.batch import Batch
from dmlbench.interleave import interleave
from dmlbench.spec import ProtocolSpec
from dmlbench.step_memory import peak_bytes
from dmlbench.training.clock import PHASES
from dmlbench.training.learner import Learner
from dmlbench.training.workshop import TrainingSet

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
        gflop: Multiplications and additions of a step's convolutions and matrix products, in 10^9.
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
        places = torch.randint(SYNTHETIC_SET.images, (training.batch_size,), generator=generator)
        others = [torch.randn(shape, generator=generator).to(device, memory_format=layout) for _ in range(views - 1)]
        return Batch(images, labels.to(device), places.to(device), tuple(others))

    return [batch() for _ in range(BATCHES)]


def measure_steps(
    learners: Mapping[str, Learner],
    batches: Sequence[Batch],
    rounds: int,
    warm_up: int,
    tell: Callable[[], None] = lambda: None,
    *,
    order: int = 0,
) -> dict[str, StepCost]:
    """Measure every method's step in rounds, each method once a round, in an order shuffled for every round.

    Args:
        learners: Learners by name, on one device.
        batches: Batches on that device, used in turn.
        rounds: Rounds that count.
        warm_up: Rounds before them that do not.
        tell: Is called after every round.
        order: In which orders methods take their turns: see `interleave`.
    """
    turns = {name: _Turn(learner, batches) for name, learner in learners.items()}
    steps = math.ceil(TURN_SECONDS / min(turn.probe() for turn in turns.values()))
    kept = interleave({name: turn.taking(steps) for name, turn in turns.items()}, rounds, warm_up, tell, order=order)
    return {
        name: StepCost(
            step_ms=[1000 * measured["train"] / steps for measured in kept[name]],
            phases_ms={
                phase: [1000 * measured[phase] / steps for measured in kept[name]]
                for phase in PHASES
                if any(measured.get(phase) for measured in kept[name])
            },
            peak_mb=peak_bytes(turn.learner, turn.step) / 2**20,
            gflop=turn.flop() / 1e9,
        )
        for name, turn in turns.items()
    }


class _Turn:
    """One method's turns: a learner in its last epoch, and batches without end."""

    def __init__(self, learner: Learner, batches: Sequence[Batch]) -> None:
        self.learner = learner
        self._batches = itertools.cycle(batches)
        device = batches[0].images.device
        self._generator = torch.Generator(device).manual_seed(0)
        learner.train()
        for batch in batches:  # an epoch without a teacher, which a memory learns from
            learner.step(batch, 0, self._generator)
        learner.end_epoch()

    def step(self) -> tuple[Tensor, Tensor]:
        """Take a step of the last epoch."""
        return self.learner.step(next(self._batches), self.learner.epochs - 1, self._generator)

    def taking(self, steps: int) -> Callable[[], dict[str, float]]:
        """A turn of so many steps, which gives the seconds of all of them (`train`), and of each phase."""

        def turn() -> dict[str, float]:
            with self.learner.clock.phase("train"):
                for _ in range(steps):
                    self.step()
            return self.learner.clock.seconds()

        return turn

    def probe(self) -> float:
        """Seconds that a step takes, roughly."""
        self.step()
        self.learner.clock.seconds()  # waits for the device
        begun = time.perf_counter()
        self.step()
        self.learner.clock.seconds()
        return time.perf_counter() - begun

    def flop(self) -> int:
        """Floating-point operations of a step."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        self.learner.clock.seconds()
        return counter.get_total_flops()
