"""`dmlbench show`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import Command, methods_dir_option, protocol_option, set_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dmlbench.specs.cell import Part, ResolvedValue
    from dmlbench.specs.method import Search


@click.command("show", cls=Command)
@click.argument("method")
@click.option("--dataset", default="glyphs", show_default=True, help="Dataset for which the values are resolved.")
@protocol_option()
@set_option()
@methods_dir_option()
def command(
    method: str, dataset: str, protocol: str | None, settings: tuple[str, ...], methods_dir: Path | None
) -> None:
    """Show a method's resolved values for one dataset, where each comes from, and what was published otherwise.

    \b
    Examples:
      dmlbench show ms+obdsd
      dmlbench show ms+obdsd --dataset cub --protocol resnet50-512
    """
    from dmlbench.cli.published import Shown, published
    from dmlbench.runner.progress import plain_or_wide
    from dmlbench.specs.protocol import load_protocol, parse_settings
    from dmlbench.specs.registry import MethodSettings, Registry

    registry = Registry(methods_dir)
    registry.parts(method)
    chosen = _protocol_name(protocol, dataset, registry.datasets())
    protocol_settings, method_settings = parse_settings(settings)
    spec = load_protocol(chosen, dataset, protocol_settings)
    given = MethodSettings(method_settings["loss"], method_settings["distillation"])
    resolved = registry.resolve(method, dataset, spec.name, given, family=spec.family)
    console = plain_or_wide()
    console.print(f"{resolved.name} on {dataset} under {spec.name}", style="bold")
    for mark in resolved.marks:
        console.print(f"note: {mark}", markup=False)
    for part in (resolved.loss, resolved.distillation):
        if part is not None:
            variant = f"\nvariant: {part.variant}" if part.variant else ""
            console.print(f"\n{part.title} ({part.kind}, class {part.class_name}){variant}", markup=False)
            console.print(_values(part, registry.searches(method)))
    for shown in published(registry, Shown(resolved, dataset, spec, changed=bool(settings))):
        console.print(shown)
    console.print(f"\nprotocol {spec.name}: {spec.title}\n{spec.description}\n", markup=False)
    console.print(_settings(chosen, dataset, protocol_settings))
    console.print("what is not listed is at its default: see docs/reference/protocols.md", markup=False)


def _settings(protocol: str, dataset: str, settings: "Mapping[str, object]") -> object:
    from rich.table import Table
    from rich.text import Text

    from dmlbench.specs.protocol import sourced_settings

    table = Table("setting", "value", "source", box=None)
    for key, value, source in sourced_settings(protocol, dataset, settings):
        table.add_row(*map(Text, (key, _shown(value), source)))
    return table


def _shown(value: object) -> str:
    """A setting in YAML, as a file has it."""
    import yaml
    from pydantic import BaseModel

    plain = value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _values(part: "Part", searches: "dict[str, Search]") -> object:
    from rich.table import Table
    from rich.text import Text

    from dmlbench.specs.cell import NETWORK_RATE, RATE

    table = Table("parameter", "value", "tuning searches", "source", box=None)
    for name, resolved in part.parameters.items():
        search = searches.get(f"{part.slot}.{name}")
        table.add_row(*map(Text, (name, str(resolved.value), str(search or ""), _source(resolved))))
    for name, resolved in part.learning_rates.items():
        value = "the network's" if resolved.value == NETWORK_RATE else str(resolved.value)
        rate = searches.get(f"{part.slot}.{RATE}{name}")
        table.add_row(*map(Text, (f"learning rate of {name}", value, str(rate or ""), _source(resolved))))
    if part.runs_teacher:
        table.add_row("teacher's mode", part.teacher_mode, "", "the official code's is train")
    return table


def _source(resolved: "ResolvedValue") -> str:
    """The source of a value, and whether it was published for another protocol or dataset."""
    if not resolved.transferred_from:
        return resolved.source
    return f"{resolved.source} (transferred from {', '.join(resolved.transferred_from)})"


def _protocol_name(protocol: str | None, dataset: str, in_method_files: set[str]) -> str:
    """The protocol asked for or the dataset's; a dataset may also be one that only method files speak of."""
    from dmlbench.data.catalogue import DATASETS
    from dmlbench.errors import unknown_name

    if dataset in DATASETS:
        return protocol or DATASETS[dataset].default_protocol
    if dataset not in in_method_files:
        raise unknown_name("dataset", dataset, in_method_files | set(DATASETS), command="dmlbench list datasets")
    return protocol or "resnet50-128"
