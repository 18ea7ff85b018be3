"""How cells are to run: settings that change no number, checked before anything does."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from dmlbench.api import MOST_PROCESSES
from dmlbench.errors import UserError, unknown_name
from dmlbench.results.store import Store
from dmlbench.runner.execution import Execution, ExecutorName, checked_device
from dmlbench.specs.slurm import SlurmSettings, slurm_settings
from dmlbench.specs.yaml_files import validate

Tracking = Literal["auto", "none"]
KEPT = ("weights", "embeddings")


def checked_execution(
    store: Store,
    data_dir: Path | None,
    *,
    tracking: str,
    device: str,
    workers: int | None,
    data_workers: int | None,
    keep: tuple[str, ...],
    per_gpu: int,
    gpus_per_cell: int,
    executor: ExecutorName,
    address: str | None,
    slurm: str | Path | Sequence[str] | Mapping[str, Any] | None,
    system_metrics: bool,
    wait: bool,
) -> Execution:
    """How cells are to run; raises UserError for a setting that is not valid, has no effect or is not possible here."""
    for name, number in {"workers": workers, "per_gpu": per_gpu, "gpus_per_cell": gpus_per_cell}.items():
        check_whole(name, number, least=1, most=MOST_PROCESSES)
    check_whole("data_workers", data_workers, least=0, most=MOST_PROCESSES)
    check_system_metrics(system_metrics=system_metrics, tracking=tracking, executor=executor)
    where, kept, jobs = checked_device(device, executor), checked_keep(keep), checked_slurm(slurm, executor, wait=wait)
    if jobs and jobs.gpus and where == "auto":
        where = "cuda"  # a node whose GPU cannot be used says so: the CPU would take days for what was asked for
    execution = Execution(store, data_dir, where, workers, data_workers, kept, per_gpu, gpus_per_cell, executor,
                          checked_address(address, executor), system_metrics, jobs, wait)  # fmt: skip
    if jobs is not None:
        from dmlbench.runner.slurm import check_slurm

        check_slurm(execution)
    return execution


def check_whole(name: str, number: int | None, *, least: int, most: int) -> None:
    """Raise UserError for anything but a whole number in this range, or None."""
    if number is not None and not (type(number) is int and least <= number <= most):
        raise UserError(f"{name}: must be a whole number from {least} to {most}, not {number!r}")


def checked_address(address: str | None, executor: str) -> str | None:
    """The address of a Ray cluster; raises UserError where it would have no effect, or Ray is not there."""
    if address and executor != "ray":
        raise UserError(f"--address {address}: names a Ray cluster", hint="add --executor ray")
    if executor == "ray" and find_spec("ray") is None:
        raise UserError("--executor ray: Ray is not installed", hint="pip install 'dmlbench[ray]'")
    return address


def checked_slurm(
    given: str | Path | Sequence[str] | Mapping[str, Any] | None, executor: str, *, wait: bool
) -> SlurmSettings | None:
    """The settings of SLURM jobs; raises UserError where they are not valid or have no effect."""
    if executor != "slurm":
        if given or wait:
            raise UserError(f"--{'slurm' if given else 'wait'}: is about SLURM jobs", hint="add --executor slurm")
        return None
    if isinstance(given, Mapping):
        return validate(SlurmSettings, given, "slurm")
    return slurm_settings([str(given)] if isinstance(given, str | Path) else given or ())


def checked_keep(keep: tuple[str, ...]) -> tuple[str, ...]:
    """What is to be kept of a cell; raises UserError for anything unknown."""
    for name in keep:
        if name not in KEPT:
            raise unknown_name("thing to keep", name, KEPT, where="--keep")
    return keep


def check_system_metrics(*, system_metrics: bool, tracking: str, executor: str) -> None:
    """Raise UserError where sampling the machine would have no effect, or is not possible."""
    _check_choice("tracking", tracking, get_args(Tracking))
    _check_choice("executor", executor, get_args(ExecutorName))
    if not system_metrics:
        return
    if tracking == "none":
        raise UserError("--system-metrics: with --tracking none there is nowhere to send them", hint="leave out one")
    if executor != "local":
        cluster = {"ray": "a Ray cluster's", "slurm": "SLURM's nodes"}[executor]
        raise UserError(f"--system-metrics: samples this machine, not {cluster}", hint="--executor local")
    if find_spec("psutil") is None:
        raise UserError("--system-metrics: psutil is not installed", hint="pip install psutil")


def _check_choice(name: str, given: str, valid: Sequence[str]) -> None:
    if not isinstance(given, str):
        raise UserError(f"{name}: must be one of {', '.join(valid)}, not {given!r}")
    if given not in valid:
        raise unknown_name(name, given, valid)
