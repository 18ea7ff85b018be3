"""Builds a cell's learner: its base, and the modifier that the method names."""

from collections.abc import Callable
from typing import Any

import torch

from dmlbench.models.model import EmbeddingModel
from dmlbench.modifiers import DISTILLATIONS
from dmlbench.specs.cell import MethodSpec, Part, ProtocolSpec
from dmlbench.training.auxiliary import auxiliary
from dmlbench.training.clock import PhaseClock
from dmlbench.training.cohort import cohort
from dmlbench.training.learner import Learner
from dmlbench.training.member import Member
from dmlbench.training.modifiers import Taught
from dmlbench.training.teachers import Memory, PreviousEpoch
from dmlbench.training.workshop import Network, TrainingSet, Workshop, construct, plugin_class

# Whatever is not named here learns from a teacher, as a plugin's distillation does.
BUILDERS: dict[str, Callable[..., tuple[list[Member], Any]]] = {"s2sd": auxiliary, "dm2": cohort}


def build_learner(
    method: MethodSpec,
    protocol: ProtocolSpec,
    model: EmbeddingModel,
    train: TrainingSet,
    device: torch.device,
    *,
    seed: int = 0,
) -> Learner:
    """Assemble a learner.

    Args:
        method: Base and modifier.
        protocol: Training and precision.
        model: As `workshop.build_seeded_model` gives it.
        train: How much there is to train on.
        device: The network's.
        seed: The cell's: initial weights of a modifier are a stream of it.

    The base loss's own parameters come from torch's global generator, which the caller seeds.
    """
    workshop = Workshop(method.loss, protocol, train, seed, device, PhaseClock(device))
    network, part = (model, workshop.criterion()), method.distillation
    if part is None:
        members, modifier = [workshop.member(network)], None
    else:
        distillation, weight = build_distillation(part)
        build = _taught if part.plugin else BUILDERS.get(part.class_name, _taught)
        members, modifier = build(workshop, network, distillation, weight, part)
    return Learner(
        members=members,
        clock=workshop.clock,
        epochs=protocol.training.epochs,
        precision=protocol.training.autocast,
        modifier=modifier,
    )


def build_distillation(part: Part) -> tuple[Any, float]:
    """Build a distillation and its weight lambda."""
    values = part.values()
    weight = float(values.pop("lambda", 1.0))
    component = plugin_class(part) if part.plugin else DISTILLATIONS[part.class_name]
    return construct(component, values, part), weight


def _taught(
    workshop: Workshop,
    network: Network,
    distillation: Any,  # noqa: ANN401 - a registered class, or a plugin's
    weight: float,
    part: Part,
) -> tuple[list[Member], Taught | None]:
    """One member and its teacher; with weight 0 the base method itself."""
    members = [workshop.member(network)]
    if not weight:
        return members, None
    training, dim = workshop.protocol.training, workshop.protocol.model.embedding_dim
    memory = part.teacher == "memory"
    teacher = Memory(workshop.train.images, dim).to(workshop.device) if memory else PreviousEpoch(part.teacher_mode)
    return members, Taught(
        teacher,
        distillation,
        weight=weight,
        epochs=training.epochs,
        clock=workshop.clock,
        precision=training.autocast,
    )
