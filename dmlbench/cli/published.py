"""What `dmlbench show` says of what was published for a method: figures, settings, and how ours differ from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from dmlbench.specs.cell import RATE, MethodSpec, ResolvedValue
from dmlbench.specs.method import (
    OTHER_NMI,
    AnyFile,
    MethodFile,
    PinnedFile,
    PublishedFigure,
    PublishedFor,
    not_known,
)
from dmlbench.specs.protocol import own_protocols, resolve_protocol
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.specs.registry import Registry

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Shown:
    """What is shown: a resolved method on a dataset under a protocol; `changed` is whether by `--set`."""

    method: MethodSpec
    dataset: str
    protocol: ProtocolSpec
    changed: bool

    @property
    def base(self) -> str:
        """Name of the base."""
        return self.method.base


def published(registry: Registry, shown: Shown) -> "list[RenderableType]":
    """Return what to print: figures, then settings that were published, and protocols that they were published with."""
    base, modifier = registry.parts(shown.method.name)
    own = registry.pinned(shown.method.name)
    files: list[AnyFile] = [file for file in (base, modifier, own) if file is not None]
    parts: list[RenderableType] = [Text("\npublished", style="bold")]
    if modifier is not None and modifier.published_with:
        without = "" if base.name in modifier.published_with else f", not with {base.name}"
        parts.append(f"{modifier.name} is published with {', '.join(modifier.published_with)}{without}")
    uses = _uses(files, shown.dataset)
    return [
        *parts,
        *_figures(modifier or base, own, shown),
        *_settings(registry, uses, shown),
        *_protocols(uses, shown),
    ]


def _figures(file: MethodFile, own: PinnedFile | None, shown: Shown) -> "Iterator[RenderableType]":
    of_base = [figure for figure in file.published if figure.base in (None, shown.base)]
    every = [*of_base, *(own.published if own else ())]
    here = [figure for figure in every if figure.dataset == shown.dataset]
    if not here:
        elsewhere = ", ".join(dict.fromkeys(figure.dataset for figure in every))
        found = f"on {shown.dataset}; there are on {elsewhere}" if elsewhere else "for this method"
        yield f"no figures {found}"
        return
    table = Table("metric", "value", "seeds", "epoch", "protocol", "comparable", "source", box=None)
    for figure in here:
        value = f"{figure.value:.2f}" + (f" ± {figure.std:.2f}" if figure.std is not None else "")
        why = _why_not(file, figure, shown)
        cells = (figure.metric, value, str(figure.seeds or "unknown"), figure.selection, figure.protocol)
        table.add_row(*map(Text, (*cells, f"no: {why}" if why else "yes", figure.source)))
    yield table


def _why_not(file: MethodFile, figure: PublishedFigure, shown: Shown) -> str:
    """Why a result of what is shown is not to be compared with a figure; empty where it is."""
    if figure.protocol != shown.protocol.name:
        return "another protocol"
    if not file.computes(figure):
        return f"with {', '.join(f'{name} {value}' for name, value in figure.values.items())}"
    if shown.changed:
        return "changed by --set"
    return OTHER_NMI if figure.metric == "nmi" else not_known(figure)


def _uses(files: list[AnyFile], dataset: str) -> list[tuple[str, str]]:
    """The protocols and datasets that values were published with; only those of this dataset where there are any."""
    every = [
        (protocol, name)
        for file in files
        for own in _published_for(file)
        for protocol in own.protocols
        for name in own.datasets or (dataset,)
    ]
    return list(dict.fromkeys([use for use in every if use[1] == dataset] or every))


def _published_for(file: AnyFile) -> Iterator[PublishedFor]:
    if file.published_for:
        yield file.published_for
    groups = (file.parameters,) if isinstance(file, MethodFile) else (file.loss, file.distillation)
    for parameter in (own for group in (*groups, file.learning_rates) for own in group.values()):
        for value in (parameter, *parameter.overrides):
            if value.published_for:
                yield value.published_for


def _settings(registry: Registry, uses: list[tuple[str, str]], shown: Shown) -> "Iterator[RenderableType]":
    """The values that were published for a use and are others here."""
    here, name = _values(shown.method), shown.method.name
    table = Table("published for", "parameter", "published", "here", "source", box=None)
    for protocol, dataset in uses:
        there = _values(registry.resolve(name, dataset, protocol))
        for key, value in there.items():
            if value.published and not value.anywhere and value.value != here[key].value:
                own = (f"{protocol}, {dataset}", key, str(value.value), str(here[key].value), value.source)
                table.add_row(*map(Text, own))
    if table.row_count:
        yield table
    elif uses:
        yield f"no published value differs from those above ({', '.join(dict.fromkeys(own for own, _ in uses))})"
    else:
        yield "no settings"


def _values(method: MethodSpec) -> dict[str, ResolvedValue]:
    return {
        f"{part.slot}.{name}": value
        for part in filter(None, (method.loss, method.distillation))
        for name, value in (
            part.parameters | {f"{RATE}{name}": own for name, own in part.learning_rates.items()}
        ).items()
    }


def _protocols(uses: list[tuple[str, str]], shown: Shown) -> "Iterator[RenderableType]":
    """In what other protocols, with which values were published, differ from the one that is shown."""
    table = Table("protocol", "setting", "published", "here", box=None)
    here = shown.protocol
    for name in dict.fromkeys(protocol for protocol, _ in uses):
        if name in (here.name, here.family):
            continue
        if name not in own_protocols():
            yield f"protocol {name} is not among `dmlbench list protocols`: the sources say what it is"
            continue
        there = resolve_protocol(name, shown.dataset)
        if there.model.backbone != here.model.backbone:
            other = f"{there.model.backbone} at {there.input.size} px"
            yield f"protocol {name} is of another network: {other}, here {here.model.backbone} at {here.input.size} px"
            continue
        own = dict(_trained(here))
        for key, value in _trained(there):
            if value != own.get(key):
                table.add_row(*map(Text, (name, key, str(value), str(own.get(key)))))
    if table.row_count:
        yield table


def _trained(protocol: ProtocolSpec) -> Iterator[tuple[str, Any]]:
    """What a protocol trains, by key."""
    return _flat(protocol.model_dump(mode="json", include={"model", "input", "training"}))


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
