"""Whether batches reach the device whole, and whether the loader keeps up with the network."""

import time
from collections.abc import Iterable
from itertools import count, cycle, islice
from statistics import median

import torch
from torch import Tensor

from dmlbench.data.loader import Batch, TrainingBatches
from dmlbench.overhead.timing import interleave
from dmlbench.results.store import Store
from dmlbench.runner.execution import Execution, data_workers
from dmlbench.selftest.conditions import CPU, LARGE, SEED, Conditions, fitting, photographs, size_of, trainer_of
from dmlbench.selftest.records import Figure, Outcome
from dmlbench.specs.protocol import load_protocol
from dmlbench.training.trainer import Trainer

# In grey levels of 255: workers make the same 8-bit pixels for both; a GPU may normalise with another last bit.
LEVELS = {"cpu": 0.0, "cuda": 0.01}
COMPARED, IMAGES = 4, 28  # batches, and images in each
FRACTION = 0.5  # of the bare rate: with less, the device waits for images half of its time
WAITS = 0.1  # share of the time that waits for data above which the loader bounds the rate
STEPS = {"cpu": 8, "cuda": 20}
ROUNDS, WARM_UP, MOST_ROUNDS = 3, 1, 30
BUSY = 2048  # rows of the matrices that keep a GPU's stream at work


def batches(conditions: Conditions) -> Outcome:
    """Batches that a loader process prepares, on the busy device, against those prepared here for the CPU."""
    settings = {"batch_size": IMAGES, "steps_per_epoch": COMPARED, "epochs": 1}
    protocol = load_protocol(LARGE, "glyphs", {"training": settings, "model": {"weights": None}})
    split, levels, labels = photographs(COMPARED * IMAGES), 0.0, 0
    scale = 255 * torch.tensor(protocol.input.std)[:, None, None]
    with (
        TrainingBatches(split, protocol, SEED, conditions.device, data_workers=1) as loaded,
        TrainingBatches(split, protocol, SEED, CPU) as own,
    ):
        for found, expected in zip(loaded.epoch(0), own.epoch(0), strict=True):
            _keep_busy(conditions)
            levels = max(levels, _largest(((found.images.cpu() - expected.images) * scale).abs()))
            labels += int((found.labels.cpu() != expected.labels).sum())
    figures = (
        Figure(name="largest difference in grey levels", value=levels, at_most=LEVELS[conditions.device.type]),
        Figure(name="labels that differ", value=labels, at_most=0),
    )
    return Outcome(figures=figures, note=f"{COMPARED} batches of {IMAGES} JPEG crops of {protocol.input.size} px")


def _largest(values: Tensor) -> float:
    return float("inf") if values.isnan().any() else float(values.max())


def _keep_busy(conditions: Conditions) -> None:
    """Queue work before a batch is read: one that was not waited for would be seen half written."""
    if conditions.on_cuda:
        matrix = torch.ones(BUSY, BUSY, device=conditions.device)
        for _ in range(20):
            matrix = matrix @ matrix / BUSY


def loader(conditions: Conditions) -> Outcome:
    """Images a second of the same training, from the loader and from batches on the device, by turns."""
    steps = STEPS[conditions.device.type]
    protocol, split = conditions.usual(steps_per_epoch=steps)
    workers = data_workers(
        Execution(Store(conditions.scratch)), [str(conditions.device)], protocol.training.cpu_threads
    )
    with fitting(protocol, conditions.device):
        trainer = trainer_of("ms", protocol, size_of(split), conditions.device)
        trainer.train()
        with trainer.batches(split, protocol, SEED, workers) as source:
            kept, epochs = list(islice(source.epoch(0), 2)), count(1)
            turns = {
                "bare": lambda: _turn(trainer, islice(cycle(kept), steps)),
                "loader": lambda: _turn(trainer, source.epoch(next(epochs))),
            }
            begun = time.perf_counter()
            interleave(turns, WARM_UP, 0)
            rounds = int(conditions.seconds / (time.perf_counter() - begun)) - WARM_UP
            times = interleave(turns, max(ROUNDS, min(MOST_ROUNDS, rounds)), 0)
    subject = f"ms, {protocol.name}, loader processes: {workers}"
    return _rates(times, steps * protocol.training.batch_size, subject)


def _turn(trainer: Trainer, source: Iterable[Batch]) -> dict[str, float]:
    """Seconds of the steps with some batches (`train`), and of the wait for these (`data`)."""
    iterator, generator = iter(source), torch.Generator(trainer.device).manual_seed(SEED)
    with trainer.clock.phase("train"):
        while True:
            with trainer.clock.phase("data"):
                batch = next(iterator, None)
            if batch is None:
                break
            trainer.step(batch, 0, generator)
    return trainer.clock.seconds()


def _rates(times: dict[str, list[dict[str, float]]], images: int, subject: str) -> Outcome:
    seconds = {name: median(turn["train"] for turn in turns) for name, turns in times.items()}
    pairs = zip(times["bare"], times["loader"], strict=True)
    fraction = median(bare["train"] / loaded["train"] for bare, loaded in pairs)
    waiting = median(turn["data"] / turn["train"] for turn in times["loader"])
    figures = (
        Figure(name="fraction of the bare rate", value=fraction, at_least=FRACTION),
        Figure(name="from the loader", value=images / seconds["loader"], unit="images/s"),
        Figure(name="on the device", value=images / seconds["bare"], unit="images/s"),
        Figure(name="share of the time that waits for data", value=waiting),
    )
    bound = "the loader" if waiting > WAITS else "the network"
    return Outcome(figures=figures, note=f"{subject}; bounded by {bound}")
