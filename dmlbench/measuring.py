"""Builds every method's learner and has their steps timed by turns."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice

import torch

from dmlbench import provenance
from dmlbench.data.images import load_dataset, split_classes
from dmlbench.data.loader import Batch, TrainingBatches
from dmlbench.measurement import SYNTHETIC, Measured, Measurement
from dmlbench.overhead import CostPlan, modifier_of
from dmlbench.spec import digest, protocol_identity
from dmlbench.step_cost import BATCHES, SYNTHETIC_SET, measure_steps, synthetic_batches
from dmlbench.training.components import TrainingSet, build_learner, build_seeded_model
from dmlbench.training.device import prepare, resolve_device

WARM_UP = 3
SEED = 0


def measure(plan: CostPlan, device: str, rounds: int, tell: Callable[[], None]) -> Measurement:
    """Measure all methods of a plan.

    Args:
        plan: As `plan_cost` gives it.
        device: `auto`, `cpu` or `cuda`.
        rounds: Rounds that count; `WARM_UP` more come before them.
        tell: Is called after every round.
    """
    started, place, protocol = datetime.now(UTC), resolve_device(device), plan.protocol
    prepare(protocol.training, place)
    size, batches = _batches(plan, place)
    learners = {}
    for method in plan.methods:
        model = build_seeded_model(protocol, SEED, place)
        learners[method.name] = build_learner(method, protocol, model, size, place)
    costs = measure_steps(learners, batches, rounds, WARM_UP, tell)
    return Measurement(
        started=started.isoformat(timespec="seconds"),
        protocol=protocol.name,
        variant=plan.variant,
        protocol_hash=digest(protocol_identity(protocol)),
        dataset=plan.dataset.name if plan.dataset else SYNTHETIC,
        epochs=protocol.training.epochs,
        batch_size=protocol.training.batch_size,
        environment=provenance.environment(str(place)),
        code={"digest": provenance.code_digest(), **provenance.git_state()},
        rounds=rounds,
        methods={
            method.name: Measured(method.base, modifier_of(method), method.marks, **asdict(costs[method.name]))
            for method in plan.methods
        },
    )


def _batches(plan: CostPlan, device: torch.device) -> tuple[TrainingSet, list[Batch]]:
    """How much there is to train on, and a few batches, on the device."""
    if plan.dataset is None:
        return SYNTHETIC_SET, synthetic_batches(plan.protocol, device)
    dataset = load_dataset(plan.dataset, plan.data_dir, lambda _: None)
    train, _ = split_classes(dataset.train, plan.protocol.validation.classes)
    with TrainingBatches(train, plan.protocol, SEED, device) as source:
        return TrainingSet(len(train.class_names), len(train.labels)), list(islice(source.epoch(0), BATCHES))
