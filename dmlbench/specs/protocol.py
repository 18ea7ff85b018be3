"""Protocol files: everything that is the same for all methods, resolved for one dataset."""

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from dmlbench.errors import UserError, unknown_name
from dmlbench.specs.protocol_spec import ProtocolSpec, Scalar, without_effect
from dmlbench.specs.yaml_files import parse, path_of, read_yaml, validate

SECTIONS = ("model", "input", "training", "evaluation", "validation")
METHOD_SECTIONS = ("loss", "distillation")


class ProtocolFile(ProtocolSpec):
    """A protocol file: a protocol, what differs on some datasets, and where values come from.

    A source is by setting (`training.epochs`), or by section (`training`) for the rest of it; of what differs on a data
    set the same with `datasets.NAME.` before it, or `datasets.NAME` for all.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    datasets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sources_of_settings(self) -> "ProtocolFile":
        fields = {section: type(getattr(self, section)).model_fields.keys() for section in SECTIONS}
        for key in self.sources:
            section, _, name = key.partition(".")
            known = {**fields, "datasets": self._overridden()}.get(section)
            if known is None or (name not in known if name else section == "datasets"):
                raise ValueError(f"sources: {key!r} is no setting, no section and no datasets.NAME of this file")
        return self

    def _overridden(self) -> set[str]:
        """Data sets with settings of their own, their sections, and these settings."""
        names = set(self.datasets)
        for dataset, sections in self.datasets.items():
            names |= {f"{dataset}.{section}" for section in sections}
            names |= {f"{dataset}.{section}.{key}" for section, own in sections.items() for key in own}
        return names


def own_protocols() -> dict[str, Path]:
    """Protocols shipped with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent.parent / "protocols").glob("*.yaml"))}


def protocol_path(name: str) -> Path:
    """The file of a protocol's name, or the user's own file."""
    shipped = own_protocols()
    if name in shipped:
        return shipped[name]
    path = path_of(name, "--protocol")
    if name.endswith((".yaml", ".yml")):
        if not path.is_file():
            raise UserError(f"--protocol {name}: no such file", hint="see `dmlbench list protocols`")
        return path
    if path.is_file():
        raise UserError(f"--protocol {name}: not a protocol file", hint="yours ends in .yaml")
    raise unknown_name("protocol", name, shipped, command="dmlbench list protocols")


def load_protocol(name: str, dataset: str, settings: Mapping[str, object] | None = None) -> ProtocolSpec:
    """Resolve a protocol for a dataset, with nested `settings` from the command line on top.

    Raises:
        UserError: for an unknown protocol, key or value, or a weights file that is missing or not the one stated.
    """
    return _with_weights_digest(resolve_protocol(name, dataset, settings), protocol_path(name))


def resolve_protocol(name: str, dataset: str, settings: Mapping[str, object] | None = None) -> ProtocolSpec:
    """As `load_protocol`, but for a file of weights, which need not be there."""
    path = protocol_path(name)
    content = read_yaml(path)
    file = validate(ProtocolFile, content, str(path))
    _check_own_name(file.name, path)
    resolved = file.model_dump(exclude={"datasets", "sources"})
    special = file.datasets.get(dataset, {})
    where = f"{path}: datasets.{dataset}"
    # The file is validated with its own overrides first, so that an error names the layer it comes from.
    protocol = validate(ProtocolSpec, _merge(resolved, special, where), where if special else str(path))
    if settings:
        merged = _merge(protocol.model_dump(), settings, "--set")
        protocol = validate(ProtocolSpec, merged, "--set")
    if found := without_effect(protocol, settings or _merge(content, special, where)):
        raise UserError(f"{'--set' if settings else where if special else path}: {found}")
    return protocol


def sourced_settings(name: str, dataset: str, settings: Mapping[str, object]) -> list[tuple[str, object, str]]:
    """What a protocol sets for a dataset, each as key, value and source; what it leaves at its default is left out.

    Args:
        name: Of a protocol, or a user's own file.
        dataset: A name.
        settings: Nested, of the command line.
    """
    content = read_yaml(protocol_path(name))
    file, resolved = validate(ProtocolFile, content, name), resolve_protocol(name, dataset, settings)
    layers = {"--set": settings, f"datasets.{dataset}": file.datasets.get(dataset, {}), "": content}
    found = []
    for section in SECTIONS:
        for key, value in getattr(resolved, section):
            layer = next((layer for layer, own in layers.items() if key in (own.get(section) or {})), None)
            if layer is not None:
                special = [f"{layer}.{section}.{key}", f"{layer}.{section}", layer] if layer else []
                stated = (file.sources.get(name) for name in (*special, f"{section}.{key}", section))
                source = layer if layer == "--set" else next(filter(None, stated), "")
                found.append((f"{section}.{key}", value, source))
    return found


def is_file_of_weights(weights: str) -> bool:
    """Whether `model.weights` names a file of the user's, not weights that a library has."""
    return weights.endswith((".safetensors", ".pth"))


def whole_key(pair: str) -> str:
    """A setting with its section's own name: `modifier.` is another word for `distillation.`."""
    return f"distillation.{pair.removeprefix('modifier.')}" if pair.startswith("modifier.") else pair


def parse_settings(pairs: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, dict[str, Scalar]]]:
    """Split `--set key.path=value` pairs into nested protocol settings and `loss` / `distillation` values."""
    protocol: dict[str, Any] = {}
    method: dict[str, dict[str, Scalar]] = {section: {} for section in METHOD_SECTIONS}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        section, *rest = key.split(".")
        deepest = 2 if section in SECTIONS else len(rest)
        if equals and section and not rest and section not in (*SECTIONS, *METHOD_SECTIONS):
            raise UserError(f"--set {pair!r}: not the full key", hint=_full_keys(section, text))
        if not equals or not all(rest) or not 0 < len(rest) <= deepest:
            raise UserError(f"--set {pair!r}: must be key.path=value", hint="for example --set training.epochs=3")
        if section not in (*SECTIONS, *METHOD_SECTIONS):
            raise unknown_name("section", section, (*SECTIONS, *METHOD_SECTIONS), where=f"--set {pair}")
        try:
            value = parse(text)
        except ValueError as error:
            raise UserError(f"--set {pair!r}: the value is {str(error).removeprefix('line 1 ')}") from error
        if section in METHOD_SECTIONS:
            method[section][".".join(rest)] = value
            continue
        target = protocol.setdefault(section, {})
        for part in rest[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {pair!r}: {part} is set to a value already")
        target[rest[-1]] = value
    return protocol, method


def _full_keys(name: str, value: str) -> str:
    """What a key without its section may have meant."""
    sections = {section: ProtocolSpec.model_fields[section].annotation for section in SECTIONS}
    keys = [(section, key) for section, model in sections.items() for key in getattr(model, "model_fields", ())]
    near = difflib.get_close_matches(name, {key for _, key in keys}, n=1, cutoff=0.8)
    found = [f"--set {section}.{key}={value}" for section, key in keys if key in near]
    return " or ".join(found or [f"--set {section}.{name}={value}" for section in ("loss", "modifier")])


def _check_own_name(name: str, path: Path) -> None:
    """A user's protocol under a shipped one's name would give its numbers that name in every table."""
    shipped = own_protocols().get(name)
    if shipped is not None and path.read_bytes() != shipped.read_bytes():
        raise UserError(f"{path}: name: {name!r} is a shipped protocol's", hint="give yours another name")


def _merge(base: Mapping[str, object], over: Mapping[str, object], where: str) -> dict[str, object]:
    merged = dict(base)
    for key, value in over.items():
        section = merged.get(key)
        if not isinstance(section, dict):
            merged[key] = value
            continue
        if not isinstance(value, dict):
            raise UserError(f"{where}: {key}: must be a mapping, not {value!r}")
        merged[key] = _merge(section, value, f"{where}: {key}")
    return merged


def _with_weights_digest(protocol: ProtocolSpec, path: Path) -> ProtocolSpec:
    """Hash a local weights file, so that the cell depends on its content and not on its path."""
    weights = protocol.model.weights
    if weights is None or not is_file_of_weights(weights):
        return protocol
    candidates = [path_of(weights, f"{path}: model.weights"), path.parent / weights]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise UserError(
            f"{path}: model.weights: no such file {weights!r}",
            hint=f"--set model.weights=FILE, for {protocol.model.backbone}",
        )
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    stated = protocol.model.weights_sha256
    if stated not in (None, digest):
        raise UserError(f"{found}: expected sha256 {stated} (model.weights_sha256 of {path}), found {digest}")
    # As it was named: a spec that others read does not reveal a user's folders unless the user named them.
    model = protocol.model.model_copy(update={"weights": str(found), "weights_sha256": digest})
    return protocol.model_copy(update={"model": model})
