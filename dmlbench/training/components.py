"""Builds what a cell's spec names: loss, distillation, optimiser and schedule."""

import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dmlbench.distillation import DISTILLATIONS
from dmlbench.errors import UserError
from dmlbench.losses import LOSSES
from dmlbench.models import EmbeddingModel, build_model
from dmlbench.randomness import stream_seed
from dmlbench.spec import MethodSpec, Part, ProtocolSpec, TrainingSpec
from dmlbench.training.clock import PhaseClock
from dmlbench.training.learner import Learner
from dmlbench.training.teachers import Memory, PreviousEpoch, Teacher


@dataclass(frozen=True)
class TrainingSet:
    """How much there is to train on."""

    classes: int
    images: int


def build_seeded_model(protocol: ProtocolSpec, seed: int, device: torch.device) -> EmbeddingModel:
    """The network as every method of a seed starts from it, on a device, in the protocol's memory layout."""
    torch.manual_seed(stream_seed(seed, 0, "weights"))
    model = build_model(protocol.model, protocol.input).to(device)
    return model.to(memory_format=torch.channels_last) if protocol.training.channels_last else model


def build_learner(
    method: MethodSpec, protocol: ProtocolSpec, model: EmbeddingModel, train: TrainingSet, device: torch.device
) -> Learner:
    """Assemble a learner; the loss's own parameters come from torch's global generator, which the caller seeds."""
    training = protocol.training
    sizes = {"num_classes": train.classes, "embedding_dim": protocol.model.embedding_dim}
    criterion = build_loss(method.loss, sizes).to(device)
    # Fused takes 0.4 of the default's time on a CPU (tests/benchmarks/test_step_speed.py); on CUDA it is not measured.
    fused = True if device.type == "cpu" else None
    optimizer = torch.optim.Adam(_parameter_groups(model, criterion, method.loss.rates(), training), fused=fused)
    milestones = list(training.milestones)
    distillation, weight = build_distillation(method.distillation)
    return Learner(
        model=model,
        criterion=criterion,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=training.gamma),
        clock=PhaseClock(device),
        epochs=training.epochs,
        autocast=training.autocast,
        distillation=distillation,
        weight=weight,
        teacher=_teacher(method.distillation, train, sizes["embedding_dim"], device) if weight else None,
    )


def _teacher(part: Part | None, train: TrainingSet, embedding_dim: int, device: torch.device) -> Teacher | None:
    if part is None:
        return None
    return Memory(train.images, embedding_dim).to(device) if part.teacher == "memory" else PreviousEpoch()


def build_loss(part: Part, sizes: dict[str, int]) -> nn.Module:
    """Build a loss; `num_classes` and `embedding_dim` go to constructors that ask for them."""
    component = _plugin_class(part) if part.plugin else LOSSES[part.class_name]
    asked = {name: size for name, size in sizes.items() if name in inspect.signature(component).parameters}
    criterion = _construct(component, {**part.values(), **asked}, part)
    if not isinstance(criterion, nn.Module):
        raise UserError(f"{part.plugin}: {part.class_name} must be a torch.nn.Module")
    return criterion


def build_distillation(part: Part | None) -> tuple[Any, float]:
    """Build a distillation and its weight lambda; (None, 0) for a base method."""
    if part is None:
        return None, 0.0
    values = part.values()
    weight = float(values.pop("lambda", 1.0))
    component = _plugin_class(part) if part.plugin else DISTILLATIONS[part.class_name]
    return _construct(component, values, part), weight


def _construct(component: Any, values: dict[str, Any], part: Part) -> Any:  # noqa: ANN401 - a registered class
    try:
        inspect.signature(component).bind(**values)
        return component(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{part.name}: parameters: {part.class_name} does not take {values} ({error})") from error


def _plugin_class(part: Part) -> Any:  # noqa: ANN401 - a class from the user's file
    """Load the class from a file in a folder that the user named with --methods-dir."""
    path = Path(part.plugin or "")
    module_spec = importlib.util.spec_from_file_location(f"dmlbench_plugin_{part.plugin_sha256}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path}: plugin: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: plugin: {type(error).__name__}: {error}") from error
    if not hasattr(module, part.class_name):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = f"it defines {', '.join(own)}" if own else "it defines no class"
        raise UserError(f"{path}: class: defines no {part.class_name!r}", hint=hint)
    return getattr(module, part.class_name)


def _parameter_groups(
    model: EmbeddingModel, criterion: nn.Module, rates: dict[str, float], training: TrainingSpec
) -> list[dict[str, Any]]:
    """Adam's groups. As in Roth et al.'s code, weight decay shrinks the network, never the loss's parameters."""
    decay = training.weight_decay
    head_rate = training.head_learning_rate or training.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": list(model.backbone.parameters()), "lr": training.learning_rate, "weight_decay": decay},
        {"params": list(model.head.parameters()), "lr": head_rate, "weight_decay": decay},
    ]
    for name, parameter in criterion.named_parameters():
        groups.append({"params": [parameter], "lr": rates.get(name, training.learning_rate), "weight_decay": 0.0})
    return groups
