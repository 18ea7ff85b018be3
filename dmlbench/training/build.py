"""Builds what a cell's spec names: networks with their losses and optimisers, the modifier, the trainer."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmlbench.errors import UserError
from dmlbench.models.model import EmbeddingModel, build_model, load_networks
from dmlbench.models.parts import live_batchnorm
from dmlbench.modifiers import BuildContext, Modifier, Network, SelfDistillation, TeacherSettings
from dmlbench.modifiers.base import Group
from dmlbench.seeding import stream_seed
from dmlbench.specs.cell import MOMENTUM, MethodSpec, Part, rate_of
from dmlbench.specs.method_loading import check_rates
from dmlbench.specs.plugins import shown
from dmlbench.specs.protocol_spec import ProtocolSpec, TrainingSpec
from dmlbench.specs.registry import NO_REFERENCES
from dmlbench.training.device import AUTOCAST, PhaseClock
from dmlbench.training.optimisation import Clipping, Schedule
from dmlbench.training.plugins import Transform, callable_of, component_of, construct, described, located, with_sizes
from dmlbench.training.ranks import ALONE, Ranks
from dmlbench.training.trainer import TrainableNetwork, Trainer

CALLING = ("step", "end_epoch", "state", "restore", "modifier_weight")  # of a trainer: they call a plugin's code


@dataclass(frozen=True)
class TrainingSet:
    """How much there is to train on."""

    classes: int
    images: int


def build_trainer(
    method: MethodSpec,
    protocol: ProtocolSpec,
    model: EmbeddingModel,
    train: TrainingSet,
    device: torch.device,
    *,
    seed: int = 0,
    ranks: Ranks = ALONE,
) -> Trainer:
    """Assemble a trainer of a network that `build_seeded_model` gave, on its device.

    The base loss's own parameters come from torch's global generator, which the caller seeds; initial weights of a
    modifier are a stream of the cell's seed. Several `ranks` each build the same.

    Raises:
        UserError: where a part does not take its values.
    """
    protocol = _at_own_rate(method, protocol)
    context = _BuildContext(method, protocol, model, train, device=device, seed=seed)
    modifier: Modifier | None = None
    networks, extra = [context.base], list[Group]()
    if method.distillation is not None:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(stream_seed(seed, 0, f"weights, {method.distillation.name}"))
            modifier = build_modifier(method.distillation, context.sizes)
            if "_modules" not in vars(modifier):
                name = f"{method.distillation.name}: {method.distillation.class_name}.__init__"
                raise UserError(f"{name} must call super().__init__(lambda_) first")
            networks, extra = _built(modifier, context, method.distillation)
    trainable = [
        _trainable(network, protocol.training, [*context.criterion_groups(network.criterion), *own])
        for network, own in zip(networks, [extra, *([] for _ in networks[1:])], strict=True)
    ]
    training = protocol.training
    trainer = Trainer(trainable, modifier, PhaseClock(device), training.epochs, training.autocast, ranks)
    parts = [part for part in (method.loss, method.distillation) if part and part.plugin]
    for name in CALLING if parts else ():
        setattr(trainer, name, located(*parts)(getattr(trainer, name)))
    return trainer


def _at_own_rate(method: MethodSpec, protocol: ProtocolSpec) -> ProtocolSpec:
    """The protocol with the network's rate of a method that has its own; a head's keeps its ratio to that."""
    training, head = protocol.training, protocol.training.head_learning_rate
    rate = method.network_rate(training.learning_rate)
    if rate == training.learning_rate:
        return protocol
    rates = {"learning_rate": rate, "head_learning_rate": head and head * rate / training.learning_rate}
    return protocol.model_copy(update={"training": training.model_copy(update=rates)})


def build_seeded_model(
    protocol: ProtocolSpec, seed: int, device: torch.device, purpose: str = "weights"
) -> EmbeddingModel:
    """The network as every method of a seed starts from it, on a device, in the protocol's memory layout.

    Another `purpose` gives a network of other initial weights; pretrained ones stay, and its head is another.
    """
    torch.manual_seed(stream_seed(seed, 0, purpose))
    model = build_model(protocol.model, protocol.input).to(device)
    return model.to(memory_format=torch.channels_last) if protocol.training.channels_last else model


def build_loss(part: Part, sizes: dict[str, int]) -> nn.Module:
    """Build a loss; `num_classes` and `embedding_dim` go to constructors that ask for them."""
    component = component_of(part)
    criterion = construct(component, with_sizes(component, part.values(), sizes), part)
    if not isinstance(criterion, nn.Module):
        raise UserError(f"{shown(part.plugin or '')}: {part.class_name} must be a torch.nn.Module")
    check_rates(part.learning_rates, [name for name, _ in criterion.named_parameters()], part.name)
    return criterion


def build_modifier(part: Part, sizes: dict[str, int]) -> Modifier:
    """Build a modifier; `num_classes` and `embedding_dim` go to constructors that ask for them.

    A plugin's class with `tau` and `targets` alone is made a self-distillation.
    """
    if part.kind == "head":
        return _WithHead(part, sizes)
    if part.kind in ("sampler", "miner", "augmentation"):  # the base, with that attribute of a modifier
        adapted = Modifier(lambda_=0.0)
        own = Transform(part) if part.kind == "augmentation" else callable_of(part, sizes)
        setattr(adapted, part.kind, located(part)(own) if part.kind == "sampler" else own)
        return adapted
    values, component = part.values(), component_of(part)
    if part.teacher == "ema":
        values.pop(MOMENTUM, None)
    if isinstance(component, type) and issubclass(component, Modifier):
        modifier: Modifier = construct(component, with_sizes(component, values, sizes), part)
        return modifier
    weight = float(values.pop("lambda", 1.0))
    distillation = construct(component, with_sizes(component, values, sizes), part)
    if not hasattr(distillation, "tau") or not callable(getattr(distillation, "targets", None)):
        said = f"{shown(part.plugin or '')}: {part.class_name} must be a dmlbench.modifiers.Modifier"
        raise UserError(said, hint="or have a temperature tau and targets(teacher_embeddings)")
    try:
        return _FromTargets(weight, distillation)
    except ValueError as error:
        raise UserError(f"{part.name}: {part.class_name}: {error}") from error


def check_parts(method: MethodSpec, sizes: dict[str, int]) -> None:
    """Build the parts of a method once, before anything is trained; raises UserError for a mistake in one of them."""
    criterion = build_loss(method.loss, sizes)
    if method.distillation is not None:
        _check_base(build_modifier(method.distillation, sizes), criterion, method.name)


def _check_base(modifier: Modifier, criterion: nn.Module, name: str) -> None:
    """Raise UserError where the base does not take what the modifier gives its loss."""
    taken = inspect.signature(type(criterion).forward).parameters
    if modifier.miner is not None and "triplets" not in taken:
        hint = f"for example triplet+{name.partition('+')[2]}; bases: contrastive, triplet, margin"
        raise UserError(f"{name}: the base takes no triplets", hint=hint)
    if modifier.references and "references" not in taken:
        raise UserError(NO_REFERENCES.format(name), hint=f"for example ms+{name.partition('+')[2]}")


class _WithHead(Modifier):
    """The base with another embedding head, whose initial weights leave the backbone's as they are."""

    def __init__(self, part: Part, sizes: dict[str, int]) -> None:
        super().__init__(lambda_=0.0)
        self._part, self._sizes = part, sizes

    def build(self, context: BuildContext) -> list[Network]:
        model, component = context.base.model, component_of(self._part)
        sizes = self._sizes | {"features": context.features}
        head = construct(component, with_sizes(component, self._part.values(), sizes), self._part)
        if not isinstance(head, nn.Module):
            raise UserError(f"{shown(self._part.plugin or '')}: {self._part.class_name} must be a torch.nn.Module")
        with torch.no_grad():  # in evaluation mode, so that no statistics of BatchNorm move
            found = tuple(head.eval()(torch.zeros(2, context.features)).shape)
        if found != (2, context.embedding_dim):
            expected = f"(B, {context.features}) to (B, {context.embedding_dim})"
            raise UserError(f"{self._part.name}: a head maps {expected}; for B = 2 it gives {found}")
        model.head = head.train().to(context.device)
        return [context.base]


class _FromTargets(SelfDistillation):
    """Self-distillation by any object with a temperature `tau` and `targets(teacher_embeddings)`."""

    def __init__(self, lambda_: float, distillation: Any) -> None:  # noqa: ANN401 - a plugin's class
        super().__init__(lambda_, distillation.tau)
        self.distillation = distillation

    def targets(self, teacher_embeddings: Tensor) -> Tensor:
        targets: Tensor = self.distillation.targets(teacher_embeddings)
        return targets

    def get_extra_state(self) -> Any:  # noqa: ANN401 - torch's signature
        """What an object keeps that is no module; a module's state is in the `state_dict` already."""
        plain = not isinstance(self.distillation, nn.Module) and hasattr(self.distillation, "state_dict")
        return self.distillation.state_dict() if plain else None

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        if state is not None:
            self.distillation.load_state_dict(state)


def untrained_network(method: MethodSpec, protocol: ProtocolSpec, classes: int, device: torch.device) -> EmbeddingModel:
    """A network of a method's shape, to be given saved weights; a plugin's head or modifier may have made another."""
    untrained = protocol.model.model_copy(update={"weights": None, "weights_sha256": None})
    model = build_model(untrained, protocol.input).to(device)
    if protocol.training.channels_last:  # as it was trained: under autocast another layout rounds otherwise
        model = model.to(memory_format=torch.channels_last)
    part = method.distillation
    if part is None or not part.plugin or part.kind not in ("head", "modifier"):
        return model
    return build_trainer(method, protocol, model, TrainingSet(classes, classes), device).model


def at_networks_rate(criterion: nn.Module, part: Part) -> list[str]:
    """What a loss learns at the network's rate, because its file gives no other, by name."""
    learned = [name for name, parameter in criterion.named_parameters() if parameter.requires_grad]
    return [name for name in learned if rate_of(name, part.learning_rates) is None]


class _BuildContext:
    """What `Modifier.build` may use: see `dmlbench.modifiers.BuildContext`."""

    def __init__(
        self,
        method: MethodSpec,
        protocol: ProtocolSpec,
        model: EmbeddingModel,
        train: TrainingSet,
        *,
        device: torch.device,
        seed: int,
    ) -> None:
        self._method, self._protocol, self._seed = method, protocol, seed
        self.name = method.name
        self.classes, self.images, self.device = train.classes, train.images, device
        self.embedding_dim, self.features = protocol.model.embedding_dim, model.features
        self.epochs, self.learning_rate = protocol.training.epochs, protocol.training.learning_rate
        self.precision: str = protocol.training.autocast
        self.teacher = _teacher(method.distillation, protocol.training)
        self.base = Network(model, self.criterion(self.embedding_dim))

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_classes": self.classes, "embedding_dim": self.embedding_dim}

    def network(self, name: str) -> Network:
        model = build_seeded_model(self._protocol, self._seed, self.device, f"weights, {name}")
        torch.manual_seed(stream_seed(self._seed, 0, f"loss, {name}"))
        return Network(model, self.criterion(self.embedding_dim))

    def teacher_network(self) -> EmbeddingModel:
        return trained_teacher(self._method, self._protocol).to(self.device)

    def criterion(self, embedding_dim: int) -> nn.Module:
        return build_loss(self._method.loss, self.sizes | {"embedding_dim": embedding_dim}).to(self.device)

    def criterion_groups(self, criterion: nn.Module) -> list[Group]:
        """As in Roth et al.'s code, weight decay leaves what a loss learns alone unless the protocol says otherwise."""
        rates, decay = self._method.loss, self._protocol.training.loss_weight_decay
        return [
            {"name": name, "params": [own], "lr": rates.rate(name, self.learning_rate), "weight_decay": decay}
            for name, own in criterion.named_parameters()
        ]

    def rate(self, parameter: str) -> float:
        part = self._method.distillation
        return part.rate(parameter, self.learning_rate) if part else self.learning_rate


def trained_teacher(method: MethodSpec, protocol: ProtocolSpec) -> EmbeddingModel:
    """The network of a protocol with the weights of the file that a method's teacher has, on the CPU.

    Raises:
        UserError: where the method has none, or the file does not fit.
    """
    part = method.distillation
    if part is None or part.teacher_weights is None:
        raise UserError(f"{method.name}: has no teacher's weights")
    untrained = protocol.model.model_copy(update={"weights": None, "weights_sha256": None})
    path = Path(part.teacher_weights)
    with torch.random.fork_rng(devices=[]):
        networks = load_networks(lambda: build_model(untrained, protocol.input), path)
    if len(networks) > 1:
        raise UserError(f"{path}: a teacher is one network, and this file has {len(networks)}")
    return networks[0]


def _teacher(part: Part | None, training: TrainingSpec) -> TeacherSettings:
    if part is None:
        return TeacherSettings("none")
    momentum = part.values().get(MOMENTUM) if part.teacher == "ema" else None
    known = {} if momentum is None else {"momentum": float(momentum)}
    precision = AUTOCAST.get(training.autocast)
    return TeacherSettings(part.teacher, part.teacher_mode, compiled=training.compile, autocast=precision, **known)


def _built(modifier: Modifier, context: _BuildContext, part: Part) -> tuple[list[Network], list[Group]]:
    """The networks of a modifier, and what it learns itself; whatever its hooks raise is one line."""
    _check_base(modifier, context.base.criterion, context.name)
    try:
        networks = modifier.build(context)
        _check_networks(networks, part, context.precision)
        modifier.to(context.device)
        check_rates(part.learning_rates, [name for name, _ in modifier.named_parameters()], part.name)
        return networks, modifier.parameter_groups(context)
    except UserError:
        raise
    except Exception as error:
        if not part.plugin and not isinstance(error, ValueError):
            raise
        what = f"{part.class_name}.build raises {described(error, part)}" if part.plugin else str(error)
        raise UserError(f"{part.name}: {what}") from error


def _check_networks(networks: object, part: Part, precision: str) -> None:
    if not (isinstance(networks, list) and networks and all(isinstance(one, Network) for one in networks)):
        said = f"{part.class_name}.build must return a list of networks, such as [context.base]"
        raise UserError(f"{part.name}: {said}, not {type(networks).__name__}")
    if precision == "float16" and any(network.period > 1 for network in networks):
        said = "a network's gradients cannot wait under training.autocast=float16"
        raise UserError(f"{part.name}: {said}", hint="--set training.autocast=bfloat16")


def _trainable(network: Network, training: TrainingSpec, extra: Iterable[Group]) -> TrainableNetwork:
    """A network with its optimiser, which also learns the `extra` groups of parameters."""
    model: Any = network.model
    _check_micro_batches(model, training)
    decay, head_decay = training.weight_decay, training.head_weight_decay
    own = [
        {"name": "backbone", "params": list(model.backbone.parameters()), "weight_decay": decay},
        {
            "name": "head",
            "params": list(model.head.parameters()),
            "lr": training.head_learning_rate or training.learning_rate,
            "weight_decay": decay if head_decay is None else head_decay,
        },
    ]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("model.frozen: nothing of the network is left to train")
    groups = [group for group in (*own, *extra) if group["params"]]
    optimizer = _optimizer(groups, training, next(model.parameters()).device)
    return TrainableNetwork(
        model,
        network.criterion,
        optimizer,
        Schedule(optimizer, training),
        Clipping(training.clip_norm, training.clip_value),
        view=network.view,
        period=network.period * training.accumulate,
        micro_batch_size=training.micro_batch_size,
        frozen_epochs=(training.warmup.epochs or 0) if training.warmup and training.warmup.frozen == "backbone" else 0,
        compiled=training.compile,
    )


def _optimizer(groups: list[Group], training: TrainingSpec, device: torch.device) -> torch.optim.Optimizer:
    # Fused takes 0.4 of the default's time on a CPU (tests/benchmarks/test_step_speed.py). On CUDA it is 4 launches in
    # place of 16 (tests/gpu/test_launches.py), and under float16 it does not wait for the scaler's verdict.
    options: dict[str, Any] = {"lr": training.learning_rate, "fused": device.type in ("cpu", "cuda")}
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum, nesterov=training.nesterov, **options)
    if training.eps is not None:
        options["eps"] = training.eps
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, **options)


def _check_micro_batches(model: EmbeddingModel, training: TrainingSpec) -> None:
    """A BatchNorm that uses the batch's statistics would have those of a micro-batch, and count each of them twice."""
    if training.micro_batch_size and live_batchnorm(model.train()):
        said = "the network's BatchNorm would use the statistics of a micro-batch"
        raise UserError(f"training.micro_batch_size: {said}", hint="--set model.freeze_batchnorm=true")
