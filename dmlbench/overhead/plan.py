"""Plans what `dmlbench overhead` measures: methods with their bases, a protocol, and images or none."""

from dataclasses import dataclass
from pathlib import Path

from dmlbench.analysis.groups import BASES, MODIFIERS, rank
from dmlbench.data.catalogue import dataset_info
from dmlbench.data.family import Log
from dmlbench.data.ready import dataset_spec, prepare
from dmlbench.errors import UserError
from dmlbench.results.measurements import SYNTHETIC
from dmlbench.runner.matrix import check_applied
from dmlbench.specs.cell import MethodSpec
from dmlbench.specs.dataset import DatasetSpec
from dmlbench.specs.overrides import changed
from dmlbench.specs.protocol import load_protocol, parse_settings
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.specs.registry import MethodSettings, Registry


@dataclass(frozen=True)
class CostRequest:
    """What the user asked for, as typed; without a dataset, images are synthetic."""

    methods: tuple[str, ...]
    protocol: str | None = None
    dataset: str | None = None
    settings: tuple[str, ...] = ()
    methods_dir: Path | None = None
    data_dir: Path | None = None


@dataclass(frozen=True)
class CostPlan:
    """What is measured; `dataset` is None for synthetic images."""

    methods: list[MethodSpec]
    protocol: ProtocolSpec
    dataset: DatasetSpec | None
    variant: str
    data_dir: Path | None


def plan_cost(request: CostRequest, log: Log) -> CostPlan:
    """Resolve every method, and the base of every modified one; data are found and checked.

    Raises:
        UserError: for any name or setting that is not valid, or data that are not there.
    """
    registry = Registry(request.methods_dir)
    names = {name: None for method in request.methods for name in (registry.parts(method)[0].name, method)}
    protocol_settings, method_settings = parse_settings(request.settings)
    info = dataset_info(request.dataset, "--dataset") if request.dataset else None
    named, name = request.protocol or (info.default_protocol if info else ""), info.name if info else SYNTHETIC
    if not named:
        hint = "for example --protocol conv4-64, or name a --dataset"
        raise UserError("--protocol: synthetic images need one", hint=hint)
    if info is None:  # what a step costs does not depend on weights, so none are fetched
        protocol_settings["model"] = {"weights": None, "weights_sha256": None} | protocol_settings.get("model", {})
    protocol = load_protocol(named, name, protocol_settings)
    settings = MethodSettings(method_settings["loss"], method_settings["distillation"])
    methods = [registry.resolve(method, name, protocol.name, settings, family=protocol.family) for method in names]
    check_applied(method_settings, methods)
    _check_teacher(methods, protocol)
    dataset = dataset_spec(info, request.data_dir, log) if info else None
    if dataset:
        prepare(dataset, request.data_dir, log)
    from_ = named, protocol
    changes = {each for method in methods for each in changed(request.settings, registry, method, from_, name)}
    variant = ", ".join(sorted(changes))
    methods.sort(key=lambda method: (rank(method.base, BASES), rank(modifier_of(method), MODIFIERS)))
    return CostPlan(methods, protocol, dataset, variant, request.data_dir)


def _check_teacher(methods: list[MethodSpec], protocol: ProtocolSpec) -> None:
    """A distillation that has no say costs nothing, and a table of that would mislead."""
    modified = [method for method in methods if method.distillation and method.distillation.teacher != "none"]
    if modified and protocol.training.epochs < 2:
        what = f"the first epoch has no teacher, so {modified[0].name} would seem to be free"
        epochs = f"training.epochs={protocol.training.epochs}"
        raise UserError(f"{epochs}: {what}", hint="--set training.epochs=2, or more")
    for method in modified:
        if method.distillation and method.distillation.values().get("lambda") == 0:
            raise UserError(f"{method.name}: with distillation.lambda=0 it is its base", hint="leave out the setting")


def modifier_of(method: MethodSpec) -> str:
    """Name of its distillation, or ""."""
    return method.distillation.name if method.distillation else ""
