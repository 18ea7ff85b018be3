"""Builds what a cell's spec names: networks, losses, optimisers, one member or several."""

import importlib.util
import inspect
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dmlbench.errors import UserError
from dmlbench.losses import LOSSES
from dmlbench.models.model import EmbeddingModel, build_model
from dmlbench.seeding import stream_seed
from dmlbench.specs.cell import Part, ProtocolSpec, TrainingSpec, rate_of
from dmlbench.specs.method_loading import check_rates
from dmlbench.training.clock import PhaseClock
from dmlbench.training.member import Member

Groups = Iterable[dict[str, Any]]
Network = tuple[EmbeddingModel, nn.Module]  # with its ranking loss


@dataclass(frozen=True)
class TrainingSet:
    """How much there is to train on."""

    classes: int
    images: int


def build_seeded_model(
    protocol: ProtocolSpec, seed: int, device: torch.device, purpose: str = "weights"
) -> EmbeddingModel:
    """The network as every method of a seed starts from it, on a device, in the protocol's memory layout.

    Another `purpose` gives a network of other initial weights; pretrained ones stay, and its head is another.
    """
    torch.manual_seed(stream_seed(seed, 0, purpose))
    model = build_model(protocol.model, protocol.input).to(device)
    return model.to(memory_format=torch.channels_last) if protocol.training.channels_last else model


@dataclass(frozen=True)
class Workshop:
    """What the parts of a learner are built from.

    Args:
        loss: The base's.
        protocol: The cell's.
        train: How much there is to train on.
        seed: The cell's.
        device: Where everything lies.
        clock: The learner's.
    """

    loss: Part
    protocol: ProtocolSpec
    train: TrainingSet
    seed: int
    device: torch.device
    clock: PhaseClock

    def seeded(self, purpose: str) -> None:
        """Set torch's global stream to one of its own, for initial weights that are not the base's."""
        torch.manual_seed(stream_seed(self.seed, 0, purpose))

    def criterion(self, embedding_dim: int | None = None) -> nn.Module:
        """The base's loss, for embeddings of the protocol's or another dimension."""
        dim = embedding_dim or self.protocol.model.embedding_dim
        return build_loss(self.loss, {"num_classes": self.train.classes, "embedding_dim": dim}).to(self.device)

    def model(self, purpose: str) -> EmbeddingModel:
        """A network with initial weights of their own."""
        return build_seeded_model(self.protocol, self.seed, self.device, purpose)

    def rates(self, criterion: nn.Module) -> Groups:
        """Adam's groups of what a loss learns. As in Roth et al.'s code, weight decay leaves it alone."""
        for name, parameter in criterion.named_parameters():
            rate = self.loss.rate(name, self.protocol.training.learning_rate)
            yield {"params": [parameter], "lr": rate, "weight_decay": 0.0}

    def member(self, network: Network, extra: Groups = (), *, view: int = 0, period: int = 1) -> Member:
        """A member with its optimiser, which also learns the `extra` groups of parameters."""
        model, criterion = network
        training = self.protocol.training
        groups = [*_network_groups(model, training), *self.rates(criterion), *extra]
        # Fused takes 0.4 of the default's time on a CPU (tests/benchmarks/test_step_speed.py); not measured on CUDA.
        optimizer = torch.optim.Adam(groups, fused=True if self.device.type == "cpu" else None)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(training.milestones), gamma=training.gamma)
        return Member(model, criterion, optimizer, scheduler, view, period)


def build_loss(part: Part, sizes: dict[str, int]) -> nn.Module:
    """Build a loss; `num_classes` and `embedding_dim` go to constructors that ask for them."""
    component = plugin_class(part) if part.plugin else LOSSES[part.class_name]
    asked = {name: size for name, size in sizes.items() if name in _parameters(component)}
    criterion = construct(component, {**part.values(), **asked}, part)
    if not isinstance(criterion, nn.Module):
        raise UserError(f"{part.plugin}: {part.class_name} must be a torch.nn.Module")
    check_rates(part.learning_rates, [name for name, _ in criterion.named_parameters()], part.name)
    return criterion


def at_networks_rate(criterion: nn.Module, part: Part) -> list[str]:
    """What a loss learns at the network's rate, because its file gives no other, by name."""
    learned = [name for name, parameter in criterion.named_parameters() if parameter.requires_grad]
    return [name for name in learned if rate_of(name, part.learning_rates) is None]


def construct(component: Any, values: dict[str, Any], part: Part) -> Any:  # noqa: ANN401 - a registered class
    """Call a class with a part's values; raises UserError where it does not take them, or whatever it raises."""
    try:
        _check_numbers(inspect.signature(component).bind(**values), part)
        return component(**values)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{part.name}: parameters: {part.class_name} does not take {values} ({error})") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, and end the process
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"{part.name}: {part.class_name} with {values} raises {what}") from error


def _check_numbers(bound: inspect.BoundArguments, part: Part) -> None:
    """Raise UserError for a text, such as `8.0.1`, where a constructor says that it takes a number."""
    for name, parameter in bound.signature.parameters.items():
        value = bound.arguments.get(name)
        if isinstance(value, str) and parameter.annotation in (int, float, "int", "float"):
            raise UserError(f"{part.name}: parameters: {name}: must be a number, not the text {value!r}")


def _parameters(component: Any) -> Collection[str]:  # noqa: ANN401 - a class
    """Names of what a constructor takes; none where Python cannot tell."""
    try:
        return inspect.signature(component).parameters
    except (TypeError, ValueError):
        return ()


def plugin_class(part: Part) -> Any:  # noqa: ANN401 - a class from the user's file
    """Load the class from a file in a folder that the user named with --methods-dir; raises UserError."""
    path = Path(part.plugin or "")
    module_spec = importlib.util.spec_from_file_location(f"dmlbench_plugin_{part.plugin_sha256}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path}: plugin: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"{path}: plugin: {type(error).__name__}: {error}") from error
    if not hasattr(module, part.class_name):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = f"it defines {', '.join(own)}" if own else "it defines no class"
        raise UserError(f"{path}: class: defines no {part.class_name!r}", hint=hint)
    component = getattr(module, part.class_name)
    if not callable(component):
        raise UserError(f"{path}: class: {part.class_name!r} is no class but of type {type(component).__name__}")
    return component


def _network_groups(model: EmbeddingModel, training: TrainingSpec) -> Groups:
    head_rate = training.head_learning_rate or training.learning_rate
    for part, rate in ((model.backbone, training.learning_rate), (model.head, head_rate)):
        yield {"params": list(part.parameters()), "lr": rate, "weight_decay": training.weight_decay}
