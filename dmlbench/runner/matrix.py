"""Methods x datasets x seeds: plans the cells, says what a user should know before they run, and runs them."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Protocol

from dmlbench.data.catalogue import DATASETS, DatasetInfo, dataset_info
from dmlbench.data.family import Log
from dmlbench.data.folds import held_out_classes
from dmlbench.data.ready import check_exchangeable, dataset_spec, prepare, trained
from dmlbench.data.samplers import check_batches
from dmlbench.errors import Damaged, UserError, attempt, counted, inflected
from dmlbench.models.pretrained import check_networks
from dmlbench.results.events import Event
from dmlbench.results.records import facts
from dmlbench.results.store import Record, State, Store, ended_at, read_record, read_spec
from dmlbench.runner.execution import (
    Execution,
    check_execution,
    data_workers,
    notes_on_execution,
    trains_on_cuda,
    worker_devices,
)
from dmlbench.runner.local import run_local
from dmlbench.runner.signals import Interrupts, Stop
from dmlbench.runner.tasks import OnEvent, RunOptions, Share, Task
from dmlbench.specs.cell import Cell, MethodSpec, differences, digest
from dmlbench.specs.dataset import DatasetSpec
from dmlbench.specs.overrides import changed
from dmlbench.specs.protocol import load_protocol, parse_settings
from dmlbench.specs.protocol_spec import ProtocolSpec, protocol_identity
from dmlbench.specs.registry import MethodSettings, Registry, under_settings
from dmlbench.specs.tuned import settings_of
from dmlbench.specs.yaml_files import path_of

DATA_VARIABLE = "DMLBENCH_DATA"


@dataclass(frozen=True)
class Request:
    """What the user asked for, as typed."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    protocol: str | None = None
    settings: tuple[str, ...] = ()
    methods_dir: Path | None = None
    data_dir: Path | None = None
    skip_bad: bool = False
    tuned: Path | None = None


class Observer(Protocol):
    """Sees what happens to every cell; the display and MLflow's mirror are observers."""

    def __call__(self, cell: Cell, folder: Path, event: Event) -> None: ...  # noqa: D102


def plan(request: Request, log: Log = lambda _: None) -> list[Cell]:
    """Resolve every cell of the matrix, in an order that finishes whole seeds first.

    The user's own folders of images are read here, because their contents are their version; `log` gets a line.

    Raises:
        UserError: for any name or setting that is not valid, before anything runs.
    """
    registry = Registry(request.methods_dir)
    protocol_settings, method_settings = parse_settings(request.settings)
    if request.tuned and any(method_settings.values()):
        raise UserError("--tuned and --set of a method's values exclude each other", hint="leave out one")
    settings = MethodSettings(method_settings["loss"], method_settings["distillation"])
    for name in request.methods:
        registry.parts(name)
    pairs = []
    for info in distinct([dataset_info(text) for text in request.datasets]):
        named = request.protocol or info.default_protocol
        protocol = load_protocol(named, info.name, protocol_settings)
        resolve = partial(registry.resolve, family=protocol.family)
        methods = [resolve(name, info.name, protocol.name, settings) for name in request.methods]
        changes = [changed(request.settings, registry, method, (named, protocol), info.name) for method in methods]
        methods = [under_settings(own, protocol.name, keys) for own, keys in zip(methods, changes, strict=True)]
        dataset = dataset_spec(info, request.data_dir, log, skip_bad=request.skip_bad)
        if request.tuned:
            methods = [_tuned(registry, request.tuned, method, dataset, protocol) for method in methods]
        pairs += [((method, dataset, protocol), own) for method, own in zip(methods, changes, strict=True)]
    check_applied(method_settings, [three[0] for three, _ in pairs])
    return [Cell(*three, seed, own) for seed in request.seeds for three, own in pairs]


def pending(cells: Sequence[Cell], store: Store, *, retry_failed: bool) -> list[Cell]:
    """The cells that still have to run; those that another process is at come last, for its end may free them."""
    wanted: tuple[State, ...] = ("missing", "interrupted", "running", *(("failed",) if retry_failed else ()))
    states = {cell.hash: store.state(cell) for cell in cells}
    waiting = [cell for cell in cells if states[cell.hash] in wanted]
    return sorted(waiting, key=lambda cell: states[cell.hash] == "running")


def rivals(cells: Sequence[Cell], store: Store) -> list[tuple[Cell, Path]]:
    """Finished results that share a row with cells to come, by their names, but were made from another spec.

    Returns:
        A cell to come and a result's folder for each; a report refuses to read both.
    """
    rows = {store.folder(cell).parent: cell for cell in cells}
    return [
        (cell, folder)
        for row, cell in rows.items()
        for folder in sorted(row.glob("seed*-*"))
        if isinstance(record := read_record(folder), Record)
        and record.done
        and record.summary.cell.hash != replace(cell, seed=record.summary.cell.seed).hash
        and (isinstance(spec := attempt(read_spec, folder), Damaged) or _row(spec) == _row(cell))
    ]


def _row(cell: Cell) -> tuple[object, ...]:
    """What distinguishes a cell's row in tables from rows of the same method with other settings."""
    own = facts(cell)
    return own.overrides, own.base_settings, own.modifier_settings, own.tuned


def data_folder(given: Path | None) -> Path | None:
    """The data folder: `--data-dir`, else DMLBENCH_DATA, else None (the default cache)."""
    named = given or (path_of(value, DATA_VARIABLE) if (value := os.environ.get(DATA_VARIABLE)) else None)
    if named is not None and not named.is_dir():
        source = "--data-dir" if given else DATA_VARIABLE
        raise UserError(f"{source} {named}: no such folder", hint="name the one that holds the data, or none")
    return named


def make_ready(cells: Sequence[Cell], execution: Execution, log: Callable[[str], None]) -> None:
    """Check everything that cells need before any of them starts: data, networks, plugins, the results folder.

    Raises:
        UserError: where data, a network, a plugin or the results folder is not usable; nothing is left behind.
    """
    for spec in {cell.dataset.name: cell.dataset for cell in cells}.values():
        prepare(spec, execution.data_dir, log)
    for spec in {own.dataset.name: own.dataset for own in cells if own.protocol.training.vary == "split"}.values():
        check_exchangeable(spec, execution.data_dir)
    check_execution(cells, execution)
    check_protocols(cells, execution, download=True)
    _check_plugins({digest(cell.method.identity()): cell for cell in cells}.values())
    if cells:
        execution.store.check_writable()


def check_protocols(cells: Sequence[Cell], execution: Execution | None = None, *, download: bool) -> list[str]:
    """Build what protocols name, once each; returns what is still to be downloaded: see `check_networks`.

    With an execution, networks are also checked for what its devices cannot train.

    Raises:
        UserError: for a network, transforms, batches or a teacher's weights that a run would refuse.
    """
    for cell in {(cell.dataset.name, digest(protocol_identity(cell.protocol))): cell for cell in cells}.values():
        if sizes := trained(cell.dataset, DATASETS.get(cell.dataset.name)):
            classes, images = sizes
            left = classes - held_out_classes(classes, cell.protocol.validation.classes)
            check_batches(left, images * left // classes, cell.protocol.training)
    for cell in {digest(cell.method.identity()): cell for cell in cells}.values():
        if cell.method.distillation and cell.method.distillation.teacher_weights:
            from dmlbench.training.build import trained_teacher

            trained_teacher(cell.method, cell.protocol)
    for image in (cell.protocol.input for cell in cells if cell.protocol.input.transforms):
        from dmlbench.data.augment import check_transforms

        check_transforms(image)
    cuda = execution is not None and trains_on_cuda(execution)
    in_parts = execution is not None and execution.gpus_per_cell > 1
    return check_networks(cells, download=download, cuda=cuda, in_parts=in_parts)


def execute(cells: Sequence[Cell], execution: Execution, observers: Sequence[Observer], interrupts: Interrupts) -> None:
    """Run cells that were made ready to their end; the store records how each ended."""

    def on_event(task: Task, event: Event) -> None:
        for observer in observers:
            observer(task.cell, task.folder, event)

    own = tasks(cells, execution.store)
    if execution.executor == "slurm":
        from dmlbench.runner.slurm import follow

        follow(own, execution.store.root, on_event=on_event, interrupts=interrupts)
    elif execution.executor == "ray":
        from dmlbench.runner.ray import run_ray

        share = Share(_threads(own), execution.per_gpu, execution.workers, execution.data_workers)
        options = RunOptions(execution.data_dir, execution.device, keep=execution.keep)
        root, address = execution.store.root, execution.address
        run_ray(own, options, share, root, address, on_event=on_event, interrupts=interrupts)
    else:
        run_here(own, execution, on_event, interrupts)


def tasks(cells: Sequence[Cell], store: Store) -> list[Task]:
    """Cells with their folders, and the failures that are to be replaced."""
    return [Task(cell, folder := store.folder(cell), ended_at(folder)) for cell in cells]


def run_here(own: Sequence[Task], execution: Execution, on_event: OnEvent, stop: Stop) -> None:
    """Run tasks in processes of this machine."""
    if not own:
        return
    threads = _threads(own)
    devices = worker_devices(execution, threads)[: len(own)]
    workers = data_workers(execution, devices, threads)
    options = RunOptions(
        execution.data_dir, execution.device, workers, execution.keep, len(devices), execution.system_metrics,
        execution.gpus_per_cell,
    )  # fmt: skip
    run_local(own, options, devices, threads=threads, on_event=on_event, interrupts=stop)


def _threads(own: Sequence[Task]) -> int:
    return max(task.cell.protocol.training.cpu_threads for task in own)


def expected_seconds(cells: Sequence[Cell], store: Store) -> float | None:
    """Expected time of all cells one after another, from past records; None where there are none to go by."""
    records = [record for record in store.records(lambda _: None) if record.done]
    estimates = [_expected(cell, records) for cell in cells]
    known = [seconds for seconds in estimates if seconds is not None]
    return sum(known) * len(estimates) / len(known) if known else None


def _expected(cell: Cell, records: Sequence[Record]) -> float | None:
    index = cell.index()
    key = index["protocol_hash"], index["dataset"]
    same = [own for own in records if (own.summary.cell.protocol_hash, own.summary.cell.dataset) == key]
    method = [own for own in same if own.summary.cell.method == index["method"]]
    seconds = [own.summary.total_s for own in method or same if own.summary.total_s]
    return median(seconds) if seconds else None


def _tuned(
    registry: Registry, overlay: Path, method: MethodSpec, dataset: DatasetSpec, protocol: ProtocolSpec
) -> MethodSpec:
    tuned = settings_of(overlay, method, dataset, protocol)
    return registry.resolve(method.name, dataset.name, protocol.name, tuned, family=protocol.family)


def _check_plugins(cells: Iterable[Cell]) -> None:
    """Load and construct every plugin once; the classes shipped here were checked with their parameters."""
    for cell in cells:
        if cell.method.loss.plugin or (cell.method.distillation and cell.method.distillation.plugin):
            from dmlbench.training.build import check_parts

            check_parts(cell.method, {"num_classes": 2, "embedding_dim": cell.protocol.model.embedding_dim})


def check_applied(settings: Mapping[str, Mapping[str, object]], methods: Sequence[MethodSpec]) -> None:
    """A method setting that no chosen method has is a mistake, not a wish."""
    for section, values in settings.items():
        parts = [part for method in methods if (part := getattr(method, section)) is not None]
        for name in values:
            if not any(name in part.accepted() for part in parts):
                valid = sorted({key for part in parts for key in part.accepted()})
                hint = f"valid: {', '.join(valid)}" if valid else "none of the methods has a distillation"
                raise UserError(f"--set {section}.{name}: no chosen method has this parameter", hint=hint)


def distinct(infos: Sequence[DatasetInfo]) -> Sequence[DatasetInfo]:
    """The same datasets; raises UserError where two have one name."""
    names = [info.name for info in infos]
    if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
        raise UserError(f"--datasets: {twice!r} is declared twice", hint="give one of them another name")
    return infos


def notes(cells: Sequence[Cell], todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Lines for the user about the cells of a run, of which those `todo` have no result yet."""
    of_cells = [*_not_kept(cells, todo, execution), *_of_other_specs(todo, execution), *without_teacher(todo)]
    return [*of_cells, *notes_on_execution(todo, execution)]


def _not_kept(cells: Sequence[Cell], todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Finished cells are never run again, also not for files they did not keep."""
    waiting = {cell.hash for cell in todo}
    folders = [execution.store.folder(cell) for cell in cells if cell.hash not in waiting]
    bare = {kept: sum(not (f / f"{kept}.safetensors").is_file() for f in folders) for kept in execution.keep}
    return [
        f"note: {count} of the cells that are there {inflected(count, 'has', 'have')} no {kept}; "
        f"another --results folder runs {inflected(count, 'it', 'them')} again"
        for kept, count in bare.items()
        if count
    ]


def _of_other_specs(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Results that a report would refuse to combine with the new ones."""
    found = rivals(todo, execution.store)
    if not found:
        return []
    cell, folder = found[0]
    spec = attempt(read_spec, folder)
    differ = "its spec.yaml cannot be read" if isinstance(spec, Damaged) else differences(spec, cell)
    which = f"such as {folder} ({differ})"
    many = f"{counted(len(found), 'result')} here {inflected(len(found), 'has', 'have')}"
    remedy = "`dmlbench report` will want them deleted, or this run in another --results"
    return [f"note: {many} another spec under names of this run, {which}; {remedy}"]


def without_teacher(todo: Sequence[Cell]) -> list[str]:
    """A teacher is the network after an epoch, and its weight grows with the epoch from 0."""
    with_teacher = [c for c in todo if c.method.distillation and c.method.distillation.teacher != "none"]
    short = list(dict.fromkeys(c.method.name for c in with_teacher if c.protocol.training.epochs == 1))
    said = "trains like its base" if len(short) == 1 else "train like their bases"
    return [f"note: with one epoch no teacher acts; {', '.join(short)} {said}"] if short else []
