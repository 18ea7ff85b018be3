"""What a step costs in memory and time: a first reading, in minutes."""

import gc
from itertools import islice
from pathlib import Path

import torch

from dmlbench.analysis.costs import doubts, measured_overhead
from dmlbench.overhead.measure import Effort, measure
from dmlbench.overhead.plan import CostRequest, plan_cost
from dmlbench.overhead.timing import SYNTHETIC_SET, peak_bytes, synthetic_batches
from dmlbench.results.environment import peak_memory_mb, reset_peak_memory
from dmlbench.selftest.conditions import (
    LARGE,
    SEED,
    SMALL,
    Conditions,
    SkipCheckError,
    fitting,
    size_of,
    trainer_of,
)
from dmlbench.selftest.records import Figure, Outcome
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.training.evaluator import Evaluator
from dmlbench.training.loop import train_epoch

EPOCHS, STEPS, SETTLED = 5, 3, 3
# MiB that may be added after the third epoch. Batches come by a stream of their own, so it depends on chance whether
# CUDA's allocator takes a new block for one; a process keeps what it freed. A leak adds a batch or more in every epoch.
GROWTH = {"cpu": 32.0, "cuda": 128.0}
ADDED = f"added from epoch {SETTLED} to {EPOCHS}"
METHOD = "ms+psd"
PROCESS_SECONDS, MOST_PROCESSES, ROUNDS = 25.0, 5, 10
MOST_RATIO = 2.0  # a teacher's forward pass is less than a step
TEACHER = 0.01  # of a step: with less no teacher ran
STATUS = Path("/proc/self/status")


def memory(conditions: Conditions) -> Outcome:
    """What is held after each of a few epochs of training and evaluation, and the height of a step."""
    protocol, split = conditions.usual(epochs=EPOCHS, steps_per_epoch=STEPS)
    device, held = conditions.device, list[float]()
    reset_peak_memory()
    with fitting(protocol, device):
        trainer = trainer_of("ms+obdsd", protocol, size_of(split), device)
        evaluator = Evaluator(split, protocol, SEED, device)
        with trainer.batches(split, protocol, SEED) as source:
            for epoch in range(EPOCHS):
                train_epoch(trainer, source, epoch, SEED, device)
                evaluator.embed(trainer.model)
                held.append(_held(device))
            peak = peak_memory_mb(str(device))
            (batch,) = islice(source.epoch(0), 1)
        generator = torch.Generator(device).manual_seed(SEED)
        step = peak_bytes(trainer, lambda: trainer.step(batch, EPOCHS - 1, generator)) / 2**20
    figures = (
        Figure(name=ADDED, value=held[-1] - held[SETTLED - 1], unit="MiB", at_most=GROWTH[device.type]),
        Figure(name="height of a step", value=step, unit="MiB"),
        *(Figure(name=f"peak of the {where}", value=value, unit="MiB") for where, value in peak.items()),
    )
    return Outcome(figures=figures, note=f"ms+obdsd, {protocol.name}, batch {protocol.training.batch_size}")


def _held(device: torch.device) -> float:
    """MiB that CUDA's allocator has reserved, or that the process has in memory."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / 2**20
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise SkipCheckError("this system does not say how much memory a process has") from error
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def overhead(conditions: Conditions) -> Outcome:
    """As `dmlbench overhead` measures: by turns, in as many processes as there is time for."""
    request = CostRequest((METHOD,), LARGE if conditions.on_cuda else SMALL)
    plan = plan_cost(request, lambda _: None)
    if conditions.on_cuda:
        _check_fits(plan.protocol, conditions.device)
    processes = max(1, min(MOST_PROCESSES, int(conditions.seconds / PROCESS_SECONDS)))
    measurement = measure(plan, conditions.device.type, Effort(processes, ROUNDS), "dmlbench selftest", lambda: None)
    costs = measured_overhead(measurement)
    row = costs[costs["method"] == METHOD].iloc[0]
    figures = (
        Figure(name="ratio of the steps", value=row["mean"], at_most=MOST_RATIO),
        Figure(name="95% interval from", value=row["low"]),
        Figure(name="95% interval to", value=row["high"]),
        Figure(name="added by teacher and distillation, over the base's step", value=row["added"], at_least=TEACHER),
        Figure(name="rest of the step over the base's", value=row["same_work"]),
    )
    note = "; ".join((f"{METHOD} over ms, {measurement.title}: {measurement.how}", *doubts(measurement)))
    return Outcome(figures=figures, note=note)


def _check_fits(protocol: ProtocolSpec, device: torch.device) -> None:
    """Skip the check where a step with a teacher does not fit; the processes that measure would only fail."""
    with fitting(protocol, device):
        trainer = trainer_of(METHOD, protocol, SYNTHETIC_SET, device)
        (batch,) = synthetic_batches(protocol, device)[:1]
        generator = torch.Generator(device).manual_seed(SEED)
        trainer.train()
        for epoch in range(2):
            trainer.step(batch, epoch, generator)
            trainer.end_epoch()
    del trainer, batch
    gc.collect()
    torch.cuda.empty_cache()
