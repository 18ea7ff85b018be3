"""Recorded cells to train again: which of them, and where this machine has what their specs name by a path."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dmlbench.data.catalogue import DatasetInfo, dataset_info
from dmlbench.data.family import Log
from dmlbench.data.folder import OwnImages, own_images
from dmlbench.data.ready import dataset_spec
from dmlbench.errors import Damaged, OnDamaged, UserError, attempt, sound, unknown_name
from dmlbench.results.environment import code_digest, environment, kind_of_machine
from dmlbench.results.history import read_history
from dmlbench.results.records import FILTERS, Facts, Summary, facts
from dmlbench.results.store import AGAIN, Record, Roots, Store, read_spec
from dmlbench.results.writer import file_digest
from dmlbench.runner.execution import Execution
from dmlbench.runner.matrix import distinct
from dmlbench.specs.cell import TEACHER_WEIGHTS, Cell, MethodSpec, Part
from dmlbench.specs.dataset import DatasetSpec
from dmlbench.specs.plugins import plugin_digest
from dmlbench.specs.yaml_files import path_of

WEIGHTS, TEACHER = "model.weights", f"distillation.{TEACHER_WEIGHTS}"  # what `--set` may say of a recorded cell
SHOWN = 12  # digits of a SHA-256


@dataclass(frozen=True)
class Recorded:
    """A finished cell of a results folder."""

    record: Record
    cell: Cell

    @property
    def facts(self) -> Facts:
        """What it is made of."""
        return facts(self.cell)

    @property
    def row(self) -> tuple[object, ...]:
        """What it shares with the other seeds of its method, dataset and protocol."""
        own = self.facts
        return own.protocol_hash, own.dataset, own.dataset_version, own.method_hash


@dataclass(frozen=True)
class Sources:
    """Where this machine has what a spec names by a path.

    Attributes:
        datasets: `NAME=FOLDER`, `NAME=FILE.csv` or YAML files.
        settings: `model.weights=FILE` and `distillation.teacher_weights=FILE`.
        methods_dir: The folder of Python plugins; none is loaded from where a spec says.
        data_dir: The folder of the catalogue's data.
    """

    datasets: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    methods_dir: Path | None = None
    data_dir: Path | None = None


def finished(roots: Roots, only: Mapping[str, Collection[str]], damaged: OnDamaged) -> list[Recorded]:
    """The finished cells of results folders, of the protocols, datasets and methods asked for.

    `damaged` takes the results that cannot be read.

    Raises:
        UserError: where a folder cannot be read, holds no finished cell, or a name is none of its own.
    """
    for store in roots.stores:
        store.check_readable()
    done = [record for record in roots.records(damaged) if record.done]
    read = (_recorded(record, roots) for record in done)
    found = _chosen(list(sound(read, damaged)), only)
    if not found:
        several = len(roots.paths) > 1
        hint = "leave out some of --only" if done else None if several else roots.stores[0].next_command()
        raise UserError(f"{roots.title}: no finished cells to train again", hint=hint)
    return found


def _recorded(record: Record, roots: Roots) -> Recorded | Damaged:
    def read(folder: Path) -> Recorded:
        cell = read_spec(folder)
        if not any(store.folder(cell) == folder for store in roots.stores):
            raise UserError(f"{folder}: holds the spec of another cell", hint=AGAIN)
        read_history(folder)
        return Recorded(record, cell)

    return attempt(read, record.folder)


def _chosen(found: list[Recorded], only: Mapping[str, Collection[str]]) -> list[Recorded]:
    every = found
    for column, names in only.items():
        if column not in FILTERS:
            raise unknown_name("column", column, FILTERS, where="--only")
        there = {getattr(one.facts, column) for one in every}
        if unknown := sorted(set(names) - there):
            raise unknown_name(column, unknown[0], there, where="--only")
        found = [one for one in found if getattr(one.facts, column) in names]
    return found


def drawn(found: Sequence[Recorded], cells: int, draw_seed: int) -> list[Recorded]:
    """Some of the cells, by a draw that a cell more in the results, or more cells asked for, leaves as it is."""

    def rank(one: Recorded) -> bytes:
        return hashlib.sha256(f"{draw_seed} {one.cell.hash}".encode()).digest()

    return sorted(found, key=rank)[:cells]


def seeds_of(one: Recorded, found: Sequence[Recorded]) -> list[Summary]:
    """The results of a cell's row, its own included: one a seed."""
    return [other.record.summary for other in found if other.row == one.row]


def check_output(output: Store, roots: Roots) -> None:
    """Raise UserError where new results would go to recorded ones, which nothing here touches."""
    own = output.root.resolve()
    for path in roots.paths:
        if own.is_relative_to(path.resolve()) or path.resolve().is_relative_to(own):
            what = f"--output {output.root}: new results would be among those of --results {path}"
            raise UserError(what, hint="name another folder")


def check_earlier(chosen: Sequence[Recorded], execution: Execution) -> None:
    """Check what earlier commands left of these cells in the output folder, for it is not trained again.

    Raises:
        UserError: for a result that is damaged, a copy of the recorded one, or of another machine or training code.
    """
    for one in chosen:
        found = execution.store.record(one.cell)
        if isinstance(found, Damaged):
            raise UserError(found.reason)
        if not found or not found.done:
            continue
        hint = "name another folder with --output"
        if found.summary.digest == one.record.summary.digest:
            raise UserError(f"{found.folder}: is a copy of the recorded result", hint=hint)
        if not _made_here(found.summary, execution.device):
            raise UserError(f"{found.folder}: was trained by other code or on another kind of machine", hint=hint)


def _made_here(summary: Summary, device: str) -> bool:
    from dmlbench.training.device import resolve_device

    here = environment(str(resolve_device(device)))
    return summary.code.digest == code_digest() and kind_of_machine(summary.environment) == kind_of_machine(here)


def located(chosen: Sequence[Recorded], every: Sequence[Recorded], sources: Sources, log: Log) -> list[Cell]:
    """The chosen cells with the paths that hold on this machine; their hashes stay.

    Args:
        chosen: The recorded cells to train.
        every: Those they were drawn from: what none of them needs is a mistake.
        sources: What the user gave.
        log: Gets lines about images that are read.

    Raises:
        UserError: where images, weights or a plugin are missing or not those that were recorded, or a source is of no
            use.
    """
    folders = _folders(sources.datasets, every)
    weights = _weights(sources.settings, every)
    if sources.methods_dir and not any(part.plugin for one in every for part in _parts(one.cell.method)):
        raise UserError("--methods-dir: no recorded cell here has a Python plugin", hint="leave it out")
    cells = [_located(one.cell, folders, weights, sources.methods_dir) for one in chosen]
    for spec in {(own.dataset.name, own.dataset.version): own.dataset for own in cells}.values():
        _check_version(spec, sources.data_dir, log)
    return cells


def _folders(texts: Sequence[str], every: Sequence[Recorded]) -> dict[str, Path]:
    """Folders and CSV files of images that the user gave, by the dataset's name."""
    found: dict[str, Path] = {}
    used = {one.cell.dataset.name for one in every}
    for info in distinct([dataset_info(text) for text in texts]):
        if not isinstance(info.family, OwnImages):
            hint = f"--only dataset={info.name} chooses its cells, --data-dir says where the data are"
            raise UserError(f"--datasets {info.name}: takes NAME=FOLDER", hint=hint)
        if info.name not in used:
            raise unknown_name("dataset of the recorded cells", info.name, used, where="--datasets")
        if not info.family.root.exists():
            hint = "name the one that the recorded cells were trained on"
            raise UserError(f"--datasets {info.name}={info.family.root}: no such folder", hint=hint)
        found[info.name] = info.family.root
    return found


def _weights(settings: Sequence[str], every: Sequence[Recorded]) -> dict[tuple[str, str], Path]:
    """Files of weights that the user gave, by key and SHA-256."""
    found: dict[tuple[str, str], Path] = {}
    needed = {need for one in every for need in _needed(one.cell)}
    for pair in settings:
        key, equals, text = pair.partition("=")
        if not equals or key not in (WEIGHTS, TEACHER):
            hint = "valid: model.weights=FILE, modifier.teacher_weights=FILE"
            raise UserError(f"--set {pair}: the spec of a recorded cell says all else", hint=hint)
        file = path_of(text, f"--set {key}")
        if not file.is_file():
            raise UserError(f"--set {pair}: no such file", hint="name the file that the recorded cells began from")
        own = key, file_digest(file)
        if own not in needed:
            known = ", ".join(sorted(sha256[:SHOWN] for other, sha256 in needed if other == key)) or "none"
            what = f"--set {pair}: has the SHA-256 {own[1][:SHOWN]}, which no recorded cell here began from"
            raise UserError(what, hint=f"recorded: {known}")
        found[own] = file
    return found


def _needed(cell: Cell) -> list[tuple[str, str]]:
    model, teacher = cell.protocol.model, cell.method.distillation
    found = [(WEIGHTS, model.weights_sha256), (TEACHER, teacher.teacher_weights_sha256 if teacher else None)]
    return [(key, sha256) for key, sha256 in found if sha256]


def _located(
    cell: Cell, folders: Mapping[str, Path], weights: Mapping[tuple[str, str], Path], methods_dir: Path | None
) -> Cell:
    dataset, model, method = cell.dataset, cell.protocol.model, cell.method
    if dataset.root is not None:
        dataset = dataset.model_copy(update={"root": str(_folder(cell, folders))})
    if model.weights and model.weights_sha256:
        file = _file(cell, (WEIGHTS, model.weights_sha256), model.weights, weights)
        model = model.model_copy(update={"weights": str(file)})
    parts: dict[str, Part] = {part.slot: _here(cell, part, weights, methods_dir) for part in _parts(method)}
    return replace(
        cell,
        dataset=dataset,
        protocol=cell.protocol.model_copy(update={"model": model}),
        method=method.model_copy(update=parts),
    )


def _parts(method: MethodSpec) -> list[Part]:
    return [part for part in (method.loss, method.distillation) if part]


def _folder(cell: Cell, folders: Mapping[str, Path]) -> Path:
    folder = folders.get(cell.dataset.name, Path(cell.dataset.root or ""))
    if not folder.exists():
        hint = f"--datasets {cell.dataset.typed} says where they are"
        raise UserError(f"{cell.label}: the images of {folder} are not here", hint=hint)
    return folder


def _file(cell: Cell, need: tuple[str, str], recorded: str, weights: Mapping[tuple[str, str], Path]) -> Path:
    """The file of weights with the recorded content: one that the user gave, or the recorded path."""
    key, sha256 = need
    file = weights.get(need, Path(recorded))
    if need not in weights and not (file.is_file() and file_digest(file) == sha256):
        what = f"{cell.label}: {key}: {file} with the SHA-256 {sha256[:SHOWN]} is not here"
        raise UserError(what, hint=f"--set {key.replace('distillation', 'modifier')}=FILE says where it is")
    return file


def _here(cell: Cell, part: Part, weights: Mapping[tuple[str, str], Path], methods_dir: Path | None) -> Part:
    update: dict[str, str] = {}
    if part.teacher_weights and part.teacher_weights_sha256:
        need = TEACHER, part.teacher_weights_sha256
        update[TEACHER_WEIGHTS] = str(_file(cell, need, part.teacher_weights, weights))
    if part.plugin:
        update["plugin"] = str(_plugin(cell, part, Path(part.plugin).name, methods_dir))
    return part.model_copy(update=update)


def _plugin(cell: Cell, part: Part, name: str, methods_dir: Path | None) -> Path:
    """The plugin's file in the user's folder; code is never loaded from where somebody's spec says."""
    if methods_dir is None:
        hint = "--methods-dir names its folder"
        raise UserError(f"{cell.label}: {part.name} is a Python plugin, {name}", hint=hint)
    file = (methods_dir / name).resolve()
    if not file.is_file() or plugin_digest(file) != part.plugin_sha256:
        what = "is not the plugin that was recorded" if file.is_file() else "no such file"
        raise UserError(f"{cell.label}: {methods_dir / name}: {what}", hint="name another folder with --methods-dir")
    return file


def _check_version(spec: DatasetSpec, data_dir: Path | None, log: Log) -> None:
    if spec.root is None:
        info = dataset_info(spec.name, "the dataset of a spec")
    else:
        info = DatasetInfo(spec.name, spec.name, "", own_images(spec.name, Path(spec.root), spec.split), files=True)
    found = dataset_spec(info, data_dir, log, skip_bad=bool(spec.skipped))
    if found.version != spec.version:
        where = f"{spec.root}: not the images that were recorded" if spec.root else "not what was recorded"
        hint = f"--datasets {spec.typed} names another" if spec.root else "the release that made the record has it"
        raise UserError(f"{spec.name}: {where} (version {found.version}, recorded {spec.version})", hint=hint)
