"""Where cells run: devices and loader processes, what a machine must have for that, and what its user should know."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmlbench.data.samplers import check_ranks
from dmlbench.errors import UserError, counted, unknown_name
from dmlbench.machine import cuda_failure, shared_memory, usable_cores
from dmlbench.results.store import Store
from dmlbench.runner.tasks import MOST_DATA_WORKERS
from dmlbench.specs.cell import Cell
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.specs.slurm import SlurmSettings

DEVICES = ("auto", "cpu", "cuda")
PREFETCHED = 2  # batches that torch's DataLoader has each of its processes prepare
ExecutorName = Literal["local", "ray", "slurm"]


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


def checked_device(device: str, executor: ExecutorName = "local") -> str:
    """The device asked for; raises UserError where it is none, or not there. The node that runs SLURM jobs has it."""
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES, where="--device")
    if device == "cuda" and executor != "slurm":
        from dmlbench.training.device import resolve_device

        resolve_device(device)
    return device


def check_execution(cells: Sequence[Cell], execution: Execution) -> None:
    """Check, before any cell starts, that cells can be trained in this way.

    Raises:
        UserError: where GPUs cannot be used or are too few, or a setting of the protocol has no effect or no compiler.
    """
    check_gpus_per_cell(cells, execution)
    if not cells or execution.executor != "local":
        return
    on_gpus = gpus_of(execution) > 0
    if on_gpus:
        _check_cuda(cells, execution)
    else:
        _check_no_tf32(cells)
    if any(cell.protocol.training.compile for cell in cells):
        _check_compiler("cuda" if on_gpus else "cpu")


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
    if execution.executor == "ray":
        raise UserError(f"{option}: needs --executor local or slurm", hint="leave one of the two out")
    if execution.per_gpu > 1:
        raise UserError(f"{option}: excludes --per-gpu {execution.per_gpu}", hint="leave one of the two out")
    if execution.slurm is not None:
        if (gpus := execution.slurm.gpus) < asked:
            said = counted(gpus, "GPU") if gpus else "no GPU"
            raise UserError(f"{option}: a job asks for {said}", hint=f"--slurm gres=gpu:{asked}")
    elif (gpus := gpus_of(execution)) < asked:
        found = f"this machine has {counted(gpus, 'GPU')}" if gpus else "needs GPUs, and there are none here"
        found = "needs GPUs, not --device cpu" if execution.device == "cpu" else found
        raise UserError(f"{option}: {found}", hint="training.micro_batch_size saves memory on one device")
    for cell in cells:
        check_ranks(asked, cell.protocol.training.batch_size)


def worker_devices(execution: Execution, threads: int) -> list[str]:
    """The device of each worker: `per_gpu` a GPU in turn, or the CPU's cores divided by what a worker uses of them.

    Of GPUs that train a cell together it is the first. On a CPU never more than the cores hold: a second process on the
    cores of the first makes both slower than one.

    Raises:
        UserError: where more workers are asked for than the GPUs hold.
    """
    if gpus := gpus_of(execution):
        slots, together = cells_on(gpus, execution), execution.gpus_per_cell
        if execution.workers and execution.workers > slots:
            held = f"{counted(gpus, 'GPU')} with --per-gpu {execution.per_gpu} hold {slots}"
            hint = f"--per-gpu {-(-execution.workers // gpus)} makes them share"
            if together > 1:
                held, hint = f"{counted(gpus, 'GPU')} with --gpus-per-cell {together} hold {slots}", f"give {slots}"
            raise UserError(f"--workers {execution.workers}: {held}", hint=hint)
        return [f"cuda:{index * together % gpus}" for index in range(execution.workers or slots)]
    most = max(1, usable_cores() // (threads + (execution.data_workers or 0)))
    return ["cpu" if execution.device == "auto" else execution.device] * min(execution.workers or most, most)


def cells_on(gpus: int, execution: Execution) -> int:
    """How many cells so many GPUs train at a time."""
    return gpus * execution.per_gpu // execution.gpus_per_cell


def cells_of_a_job(execution: Execution, threads: int) -> int:
    """How many cells a SLURM job runs at a time, by what it asks for."""
    asked = execution.slurm
    if asked is None:
        return 1
    slots = cells_on(asked.gpus, execution) or asked.cores // (threads + (execution.data_workers or 0))
    return max(1, min(asked.cells_per_job, slots, execution.workers or slots))


def trains_on_cuda(execution: Execution) -> bool:
    """Whether cells run on GPUs: of this machine, or where they are asked for, of nodes that are not seen from here."""
    return gpus_of(execution) > 0 if execution.executor == "local" else execution.device == "cuda"


def gpus_of(execution: Execution) -> int:
    """How many GPUs of this machine cells run on; 0 on its CPU."""
    return _gpu_count(asked_for=execution.device == "cuda") if execution.device in ("auto", "cuda") else 0


def _gpu_count(*, asked_for: bool) -> int:
    """CUDA devices. Machines that show no sign of one are spared the import of torch."""
    signs = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))  # NVIDIA, NVIDIA in WSL, ROCm
    if not asked_for and shutil.which("nvidia-smi") is None and not any(sign.exists() for sign in signs):
        return 0
    import torch

    return torch.cuda.device_count()


def data_workers(execution: Execution, devices: Sequence[str], threads: int) -> int:
    """Loader processes of each cell: those asked for, else none on a CPU and the rest of its cores on a GPU.

    On a GPU at least one: where the training process decodes images itself, the GPU waits for each batch.
    """
    if execution.data_workers is not None:
        return execution.data_workers
    free = usable_cores() // (len(devices) * execution.gpus_per_cell) - threads
    return min(MOST_DATA_WORKERS, max(free, 1)) if devices[0].startswith("cuda") else 0


def notes_on_execution(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Lines for the user about the processes and GPUs of a run."""
    if execution.slurm:
        return _of_jobs(todo, execution) if todo else []
    if execution.executor != "local" or not todo:
        return []
    return [note for of in (_of_fewer_workers, _of_gpus, _of_loaders) for note in of(todo, execution)]


def _of_jobs(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """GPUs that nobody asks for, or that nothing would use."""
    gpus = execution.slurm.gpus if execution.slurm else 0
    if not gpus:
        return [] if execution.device == "cpu" else ["note: the jobs ask for no GPU; --slurm gres=gpu:1 asks for one"]
    threads = max(cell.protocol.training.cpu_threads for cell in todo)
    used = min(gpus, cells_of_a_job(execution, threads) * execution.gpus_per_cell)
    if used == gpus:
        return []
    return [f"note: a job asks for {counted(gpus, 'GPU')} and uses {used}; --slurm cells_per_job=N runs more at a time"]


def _of_fewer_workers(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """More processes than the cores hold would make all of them slower."""
    if not execution.workers:
        return []
    threads = max(cell.protocol.training.cpu_threads for cell in todo)
    held = len(worker_devices(execution, threads))
    if held >= execution.workers:
        return []
    each = threads + (execution.data_workers or 0)
    return [f"note: --workers {execution.workers} is lowered to {held}: {usable_cores()} cores, {each} for each cell"]


def _of_gpus(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """What a user of GPUs may not know: float32 is slow there, and loader processes need cores."""
    if not gpus_of(execution):
        return []
    said, threads = [], max(cell.protocol.training.cpu_threads for cell in todo)
    devices = worker_devices(execution, threads)[: len(todo)]
    exact = {own.protocol.name for own in todo if _exact(own.protocol)}
    if exact:
        faster = "training.autocast=bfloat16 or training.float32_convolutions=tf32"
        said.append(
            f"note: {', '.join(sorted(exact))}: float32 without TF32; --set {faster} is faster, and another cell"
        )
    used = len(devices) * execution.gpus_per_cell
    if execution.data_workers is None and usable_cores() // used - threads < 1:
        said.append(f"note: {usable_cores()} cores for {used} training processes: loaders will keep the GPUs waiting")
    return said


def _of_loaders(todo: Sequence[Cell], execution: Execution) -> list[str]:
    """Loader processes hand batches over in shared memory, of which containers have little."""
    threads = max(cell.protocol.training.cpu_threads for cell in todo)
    devices = worker_devices(execution, threads)[: len(todo)]
    workers = data_workers(execution, devices, threads)
    needed, free = PREFETCHED * workers * len(devices) * max(map(_batch_bytes, todo)), shared_memory()
    if free is None or needed <= free:
        return []
    sizes = f"up to {needed / 2**20:,.0f} MiB of /dev/shm, which has {free / 2**20:,.0f}"
    return [f"note: loaders take {sizes}; a larger /dev/shm helps, or fewer --data-workers, such as 0"]


def _exact(protocol: ProtocolSpec) -> bool:
    return protocol.training.autocast == "none" and protocol.training.float32_convolutions == "ieee"


def _batch_bytes(cell: Cell) -> int:
    image, training, evaluation = cell.protocol.input, cell.protocol.training, cell.protocol.evaluation
    return max(training.batch_size, evaluation.batch_size) * image.channels * image.size**2
