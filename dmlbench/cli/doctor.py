"""`dmlbench doctor`."""

import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

import click

from dmlbench.cli.options import Command, data_dir_option, results_option


@click.command("doctor", cls=Command)
@data_dir_option()
@results_option()
def command(data_dir: Path | None, results: Path) -> int:
    """Check Python, torch, GPU, faiss, disk, pretrained weights and data; the exit code is 1 if a run could not work.

    \b
    Examples:
      dmlbench doctor
      dmlbench doctor --data-dir data
    """
    from rich.table import Table

    from dmlbench.runner.progress import plain_or_wide

    checks = [_python(), *_torch(), _faiss(), _disk(results), *_slurm(), *_weights(), *_data(data_dir)]
    table = Table("", "what", "found", box=None)
    for state, what, found in checks:
        table.add_row(state, what, found)
    console = plain_or_wide()
    console.print(table)
    console.say("`dmlbench selftest` checks in minutes whether results of this machine are correct")
    return 1 if any(state == "bad" for state, _, _ in checks) else 0


Check = tuple[str, str, str]


def _python() -> Check:
    return (
        "ok",
        "Python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )


def _torch() -> list[Check]:
    import torch
    import torchvision

    from dmlbench.machine import cuda_failure

    found: list[Check] = [("ok", "torch", f"{torch.__version__}, torchvision {torchvision.__version__}")]
    if not torch.cuda.is_available():
        return [*found, ("ok", "GPU", "none: cells run on the CPU")]
    if reason := cuda_failure([f"cuda:{index}" for index in range(torch.cuda.device_count())]):
        return [*found, ("bad", "GPU", f"cannot start ({reason}); cells run with --device cpu")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(("ok", f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    return found


def _faiss() -> Check:
    try:
        import faiss
    except ImportError as error:
        return "note", "faiss", f"not importable ({error}); evaluation uses torch"
    return "ok", "faiss", f"{faiss.__version__}, {faiss.get_num_gpus() if hasattr(faiss, 'get_num_gpus') else 0} GPUs"


def _slurm() -> list[Check]:
    """Where jobs can be submitted from here."""
    if shutil.which("sbatch") is None:
        return []
    if find_spec("submitit") is None:
        return [("note", "SLURM", "sbatch is here; for --executor slurm: pip install 'dmlbench[slurm]'")]
    return [("ok", "SLURM", "sbatch and submitit are here")]


def _disk(results: Path) -> Check:
    there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    writable = os.access(there, os.W_OK)
    state = "ok" if writable and free > 1 else "bad"
    return state, "results folder", f"{results}: {free:.0f} GiB free{'' if writable else ', NOT writable'}"


def _weights() -> list[Check]:
    """Of the shipped protocols, those that share weights in one row; nothing is downloaded."""
    from dmlbench.models.pretrained import is_file, to_download
    from dmlbench.specs.protocol import ProtocolFile, own_protocols
    from dmlbench.specs.yaml_files import read_yaml, validate

    protocols: dict[tuple[str, str], list[str]] = {}
    for name, path in own_protocols().items():
        model = validate(ProtocolFile, read_yaml(path), str(path)).model
        if model.weights is None:
            continue
        missing = to_download(model)
        if is_file(model.weights):
            missing = f"{model.weights} is not part of dmlbench; --set model.weights=FILE for {model.backbone}"
        found = ("note", missing) if missing else ("ok", f"{model.weights} of {model.backbone} is here")
        protocols.setdefault(found, []).append(name)
    return [(state, "weights", f"{said}: for {', '.join(names)}") for (state, said), names in protocols.items()]


def _data(data_dir: Path | None) -> list[Check]:
    from dmlbench.data.catalogue import DATASETS
    from dmlbench.errors import UserError
    from dmlbench.runner.matrix import data_folder

    try:
        given = data_folder(data_dir)
    except UserError as error:
        return [("bad", "data folder", str(error))]
    return [_dataset(name, given) for name in DATASETS]


def _dataset(name: str, given: Path | None) -> Check:
    from dmlbench.data.catalogue import DATASETS
    from dmlbench.data.family import Downloadable, cache_dir
    from dmlbench.errors import UserError

    try:
        # Naming the cache as if it were given looks into it and downloads nothing.
        if DATASETS[name].files:
            DATASETS[name].family.read(given or cache_dir(), lambda _: None)
        else:
            DATASETS[name].family.prepare(given or cache_dir(), lambda _: None)
    except UserError as error:
        what, _, _ = str(error).partition("; ")
        info = DATASETS[name]
        elsewhere = info.files or isinstance(info.family, Downloadable)  # else it is made here, and must be makeable
        state = "note" if elsewhere else "bad"
        return state, f"dataset {name}", f"{what}; see `dmlbench data fetch {name}`"
    return "ok", f"dataset {name}", "ready"
