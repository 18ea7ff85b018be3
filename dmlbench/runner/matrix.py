"""Methods x datasets x seeds: plans the cells, says what a user should know before they run, and runs them."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal, Protocol

from dmlbench.data.catalogue import DATASETS, DatasetInfo, dataset_info
from dmlbench.data.family import Log
from dmlbench.data.ready import check_exchangeable, dataset_spec, prepare
from dmlbench.data.samplers import check_batches, check_ranks
from dmlbench.errors import Damaged, UserError, attempt, counted, inflected, unknown_name
from dmlbench.machine import cuda_failure, shared_memory, usable_cores
from dmlbench.models.pretrained import check_networks
from dmlbench.results.events import Event
from dmlbench.results.records import facts
from dmlbench.results.store import Record, State, Store, ended_at, read_record, read_spec
from dmlbench.runner.local import run_local
from dmlbench.runner.signals import Interrupts, Stop
from dmlbench.runner.tasks import MOST_DATA_WORKERS, OnEvent, RunOptions, Share, Task
from dmlbench.specs.cell import Cell, MethodSpec, differences, digest
from dmlbench.specs.dataset import DatasetSpec
from dmlbench.specs.overrides import changed
from dmlbench.specs.protocol import load_protocol, parse_settings
from dmlbench.specs.protocol_spec import ProtocolSpec, protocol_identity
from dmlbench.specs.registry import MethodSettings, Registry, under_settings
from dmlbench.specs.slurm import SlurmSettings
from dmlbench.specs.tuned import settings_of
from dmlbench.specs.yaml_files import path_of

DATA_VARIABLE = "DMLBENCH_DATA"
DEVICES = ("auto", "cpu", "cuda")
ExecutorName = Literal["local", "ray", "slurm"]


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


@dataclass(frozen=True)
class Execution:
    """How to run: nothing here changes a number."""

    store: Store
    data_dir: Path | None = None
    device: str = "auto"
    workers: int | None = None
    data_workers: int | None = None
    keep: tuple[str, ...] = ()
    per_gpu: int = 1
    gpus_per_cell: int = 1
    executor: ExecutorName = "local"
    address: str | None = None
    system_metrics: bool = False
    slurm: SlurmSettings | None = None
    wait: bool = False


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
    for info in _distinct([dataset_info(text) for text in request.datasets]):
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


def checked_device(device: str, executor: ExecutorName = "local") -> str:
    """The device asked for; raises UserError where it is none, or not there. The node that runs SLURM jobs has it."""
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES, where="--device")
    if device == "cuda" and executor != "slurm":
        from dmlbench.training.device import resolve_device

        resolve_device(device)
    return device


def make_ready(cells: Sequence[Cell], execution: Execution, log: Callable[[str], None]) -> None:
    """Check everything that cells need before any of them starts: data, networks, plugins, the results folder.

    Raises:
        UserError: where data, a network, a plugin or the results folder is not usable; nothing is left behind.
    """
    for spec in {cell.dataset.name: cell.dataset for cell in cells}.values():
        prepare(spec, execution.data_dir, log)
    for spec in {own.dataset.name: own.dataset for own in cells if own.protocol.training.vary == "split"}.values():
        check_exchangeable(spec, execution.data_dir)
    check_gpus_per_cell(cells, execution)
    on_gpus = bool(cells) and runs_on_gpus(execution)
    if on_gpus:
        _check_cuda(cells, execution)
    check_protocols(
        cells, download=True, cuda=on_gpus or _asks_for_cuda(execution), in_parts=execution.gpus_per_cell > 1
    )
    if execution.executor == "local" and not on_gpus:
        _check_no_tf32(cells)
    if execution.executor == "local" and any(cell.protocol.training.compile for cell in cells):
        _check_compiler("cuda" if on_gpus else "cpu")
    _check_plugins({digest(cell.method.identity()): cell for cell in cells}.values())
    if cells:
        execution.store.check_writable()


def _check_cuda(cells: Sequence[Cell], execution: Execution) -> None:
    from dmlbench.training.device import check_tf32

    for cell in cells:
        check_tf32(cell.protocol.training)
    threads = max(cell.protocol.training.cpu_threads for cell in cells)
    if reason := cuda_failure(set(worker_devices(execution, threads)[: len(cells)])):
        hint = "--device cpu, or CUDA_VISIBLE_DEVICES without that GPU"
        raise UserError(f"--device {execution.device}: CUDA cannot start ({reason})", hint=hint)


def _check_compiler(kind: str) -> None:
    import torch

    from dmlbench.training.device import check_compiler

    check_compiler(torch.device(kind))


def _check_no_tf32(cells: Sequence[Cell]) -> None:
    if any(cell.protocol.training.float32_convolutions != "ieee" for cell in cells):
        what = "training.float32_convolutions has no effect on a CPU"
        raise UserError(what, hint="leave it out, or --device cuda")


def check_gpus_per_cell(cells: Sequence[Cell], execution: Execution) -> None:
    """Check that cells can be trained by as many GPUs as the user asks for.

    Raises:
        UserError: where they cannot: on a CPU, by other executors, on a shared GPU, by more than there are.
    """
    asked = execution.gpus_per_cell
    if asked == 1:
        return
    option = f"--gpus-per-cell {asked}"
    if execution.executor != "local":
        raise UserError(f"{option}: needs --executor local", hint="leave one of the two out")
    if execution.per_gpu > 1:
        raise UserError(f"{option}: excludes --per-gpu {execution.per_gpu}", hint="leave one of the two out")
    if (gpus := gpus_of(execution)) < asked:
        found = f"this machine has {counted(gpus, 'GPU')}" if gpus else "needs GPUs, and there are none here"
        found = "needs GPUs, not --device cpu" if execution.device == "cpu" else found
        raise UserError(f"{option}: {found}", hint="training.micro_batch_size saves memory on one device")
    for cell in cells:
        check_ranks(asked, cell.protocol.training.batch_size)


def check_protocols(cells: Sequence[Cell], *, download: bool, cuda: bool = False, in_parts: bool = False) -> list[str]:
    """Build what protocols name, once each; returns what is still to be downloaded: see `check_networks`.

    Raises:
        UserError: for a network, transforms, batches or a teacher's weights that a run would refuse.
    """
    for cell in {(cell.dataset.name, digest(protocol_identity(cell.protocol))): cell for cell in cells}.values():
        info = DATASETS.get(cell.dataset.name)
        if info and info.train_classes and not cell.dataset.root:  # of a user's images a cell knows them
            check_batches(info.train_classes, info.train_images, cell.protocol.training)
    for cell in {digest(cell.method.identity()): cell for cell in cells}.values():
        if cell.method.distillation and cell.method.distillation.teacher_weights:
            from dmlbench.training.build import trained_teacher

            trained_teacher(cell.method, cell.protocol)
    for image in (cell.protocol.input for cell in cells if cell.protocol.input.transforms):
        from dmlbench.data.augment import check_transforms

        check_transforms(image)
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


def worker_devices(execution: Execution, threads: int) -> list[str]:
    """The device of each worker: `per_gpu` a GPU in turn, or the CPU's cores divided by what a worker uses of them.

    Of GPUs that train a cell together it is the first. On a CPU never more than the cores hold: a second process on the
    cores of the first makes both slower than one.

    Raises:
        UserError: where more workers are asked for than the GPUs hold.
    """
    if gpus := gpus_of(execution):
        slots, together = gpus * execution.per_gpu // execution.gpus_per_cell, execution.gpus_per_cell
        if execution.workers and execution.workers > slots:
            held = f"{counted(gpus, 'GPU')} with --per-gpu {execution.per_gpu} hold {slots}"
            hint = f"--per-gpu {-(-execution.workers // gpus)} makes them share"
            if together > 1:
                held, hint = f"{counted(gpus, 'GPU')} with --gpus-per-cell {together} hold {slots}", f"give {slots}"
            raise UserError(f"--workers {execution.workers}: {held}", hint=hint)
        return [f"cuda:{index * together % gpus}" for index in range(execution.workers or slots)]
    most = max(1, usable_cores() // (threads + (execution.data_workers or 0)))
    return ["cpu" if execution.device == "auto" else execution.device] * min(execution.workers or most, most)


def runs_on_gpus(execution: Execution) -> bool:
    """Whether cells run on GPUs of this machine."""
    return execution.executor == "local" and gpus_of(execution) > 0


def _asks_for_cuda(execution: Execution) -> bool:
    """Whether cells of other executors are to run on GPUs, of nodes that are not seen from here."""
    return execution.executor != "local" and execution.device == "cuda"


def gpus_of(execution: Execution) -> int:
    """How many GPUs of this machine cells run on; 0 on its CPU."""
    return _gpu_count(asked_for=execution.device == "cuda") if execution.device in ("auto", "cuda") else 0


def data_workers(execution: Execution, devices: Sequence[str], threads: int) -> int:
    """Loader processes of each cell: those asked for, else none on a CPU and the rest of its cores on a GPU.

    On a GPU at least one: where the training process decodes images itself, the GPU waits for each batch.
    """
    if execution.data_workers is not None:
        return execution.data_workers
    free = usable_cores() // (len(devices) * execution.gpus_per_cell) - threads
    return min(MOST_DATA_WORKERS, max(free, 1)) if devices[0].startswith("cuda") else 0


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


def _distinct(infos: Sequence[DatasetInfo]) -> Sequence[DatasetInfo]:
    names = [info.name for info in infos]
    if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
        raise UserError(f"--datasets: {twice!r} is declared twice", hint="give one of them another name")
    return infos


def _gpu_count(*, asked_for: bool) -> int:
    """CUDA devices. Machines that show no sign of one are spared the import of torch."""
    signs = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))  # NVIDIA, NVIDIA in WSL, ROCm
    if not asked_for and shutil.which("nvidia-smi") is None and not any(sign.exists() for sign in signs):
        return 0
    import torch

    return torch.cuda.device_count()


def notes(cells: Sequence[Cell], todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Lines for the user about the cells of a run, of which those `todo` have no result yet."""
    of_cells = [*_not_kept(cells, todo, execution), *_of_other_specs(todo, execution), *without_teacher(todo)]
    return [*of_cells, *_of_fewer_workers(todo, execution), *_of_gpus(todo, execution)]


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


def _of_fewer_workers(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """More processes than the cores hold would make all of them slower."""
    if not todo or execution.executor != "local" or not execution.workers:
        return []
    threads = max(cell.protocol.training.cpu_threads for cell in todo)
    held = len(worker_devices(execution, threads))
    if held >= execution.workers:
        return []
    each = threads + (execution.data_workers or 0)
    return [f"note: --workers {execution.workers} is lowered to {held}: {usable_cores()} cores, {each} for each cell"]


PREFETCHED = 2  # batches that torch's DataLoader has each of its processes prepare


def _of_gpus(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """What a user of GPUs may not know: float32 is slow there, and loader processes need shared memory and cores."""
    if not todo or not runs_on_gpus(execution):
        return []
    said, threads = [], max(cell.protocol.training.cpu_threads for cell in todo)
    devices = worker_devices(execution, threads)[: len(todo)]
    workers = data_workers(execution, devices, threads)
    exact = {own.protocol.name for own in todo if _exact(own.protocol)}
    if exact:
        faster = "training.autocast=bfloat16 or training.float32_convolutions=tf32"
        said.append(
            f"note: {', '.join(sorted(exact))}: float32 without TF32; --set {faster} is faster, and another cell"
        )
    used = len(devices) * execution.gpus_per_cell
    if execution.data_workers is None and usable_cores() // used - threads < 1:
        said.append(f"note: {usable_cores()} cores for {used} training processes: loaders will keep the GPUs waiting")
    needed, free = PREFETCHED * workers * len(devices) * max(map(_batch_bytes, todo)), shared_memory()
    if free is not None and needed > free:
        sizes = f"up to {needed / 2**30:.1f} GiB of /dev/shm, which has {free / 2**30:.1f}"
        said.append(f"note: loaders take {sizes}; give the container more, or fewer --data-workers")
    return said


def _exact(protocol: ProtocolSpec) -> bool:
    return protocol.training.autocast == "none" and protocol.training.float32_convolutions == "ieee"


def _batch_bytes(cell: Cell) -> int:
    image, training, evaluation = cell.protocol.input, cell.protocol.training, cell.protocol.evaluation
    return max(training.batch_size, evaluation.batch_size) * image.channels * image.size**2
