"""Where a number comes from: code, machine, libraries. Written into every result."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dmlbench.errors import counted
from dmlbench.results.records import Code, Environment, Summary

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "simplejpeg", "scikit-learn", "faiss-gpu", "faiss-cpu")
# What a number depends on. The report, the runner and the command line may change without changing any.
TRAINING_PATH = (
    "data", "evaluation", "losses", "models", "modifiers", "results/history.py", "runner/cell.py", "seeding.py",
    "specs/cell.py", "specs/dataset.py", "training",
)  # fmt: skip

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

# Of an environment. Instructions, too: records of before `machine` told generations of processors apart are still read.
COMPARED = ("machine", "cpu_capability", "processes", "data_workers", "gpus_per_cell")


def environment(device: str) -> Environment:
    """The machine and the libraries; `machine` identifies it without naming it."""
    import torch

    gpu = _gpu(device)
    # What tells processors apart that virtual machines give one name, on hosts of one name.
    generation = [found for key in ("cpu family", "model", "stepping") if (found := _cpuinfo().get(key)) is not None]
    parts = [platform.node(), cpu_model(), *generation, str(os.cpu_count()), gpu.get("gpu", "")]
    return Environment.model_validate({
        "machine": hashlib.sha256("|".join(parts).encode()).hexdigest()[:12],
        "device": device,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **versions(),
        **gpu,
    })  # fmt: skip


def kind_of_machine(environment: Environment) -> dict[str, str]:
    """What of an environment numbers depend on to the last bit: processor and libraries, not whose they are."""
    known = environment.as_json()
    keys = ("gpu", "cuda", "cudnn") if environment.device_kind == "cuda" else ("cpu", "cpu_capability")
    return {key: str(known.get(key)) for key in (*keys, "python", *versions())}


def made_by(summaries: Sequence[Summary]) -> list[str]:
    """For people: on which machines and by which training code results were made, with their numbers."""
    environments = [summary.environment for summary in summaries]
    machines = Counter(f"{_trained_by(own)}, torch {own.torch}" for own in environments)
    codes = Counter(summary.code.digest or "unknown" for summary in summaries)
    return [
        "made on " + "; ".join(f"{machine} ({counted(count, 'cell')})" for machine, count in machines.items()),
        "training code " + ", ".join(f"{code} ({counted(count, 'cell')})" for code, count in codes.items()),
    ]


def _trained_by(environment: Environment) -> str:
    """The processor or GPU of a cell, with their number where several trained it together."""
    count = f"{environment.gpus_per_cell} x " if environment.gpus_per_cell else ""
    return f"{count}{environment.gpu or environment.cpu}"


def machine_and_load(environment: Environment, code: str = "") -> str:
    """The machine, what its own runner had on it, and the code's digest: times compare with those of the same alone."""
    known = [*(getattr(environment, key) for key in COMPARED), code or None]
    shared = [str(value) for value in known if value is not None]
    return "/".join([*shared, *(["system metrics"] if environment.system_metrics else [])])


def of_all_attempts(environment: Environment, machines: list[str], cell: str) -> Environment:
    """The environment of a cell that several attempts trained; times of several machines compare with no other's."""
    if len(set(machines)) == 1:
        return environment
    return environment.model_copy(update={"machine": f"several, cell {cell[:8]}", "places": machines})


def code_state() -> Code:
    """Digest of the training code, and commit of the source tree with whether it has changes, where there is one."""
    return Code.model_validate({"digest": code_digest(), **git_state()})


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on, and our own."""
    found = {"dmlbench": importlib.import_module("dmlbench").__version__}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_digest() -> str:
    """Sixteen hexadecimal digits over the statements that training and evaluation run through.

    Comments, docstrings and layout do not count: a result or a checkpoint is as good after a change of wording.
    """
    return statements_digest(Path(__file__).parent.parent, TRAINING_PATH)


def statements_digest(package: Path, names: Sequence[str]) -> str:
    """Sixteen hexadecimal digits over the names and syntax trees, without docstrings, of files and folders' files."""
    digest = hashlib.sha256()
    for entry in (package / name for name in names):
        for path in sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]:
            digest.update(path.relative_to(package).as_posix().encode())
            digest.update(_written(ast.parse(path.read_bytes())).encode())
    return digest.hexdigest()[:16]


def _written(node: object) -> str:
    """A syntax tree in one line, without docstrings.

    Unlike `ast.dump`, the same for every release of Python: fields that are empty are left out, as later releases add
    some.
    """
    if isinstance(node, list):
        return f"[{' '.join(map(_written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    filled = (f"{name}={_written(value)}" for name, value in fields.items() if value not in (None, []))
    return f"({' '.join([type(node).__name__, *filled])})"


@cache
def git_state() -> dict[str, str | bool]:
    """Commit of the source tree and whether it has changes; empty for an installed package."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return {}
    commit = _run("git", "-C", str(root), "rev-parse", "HEAD")
    changed = _run("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return {} if commit is None else {"commit": commit, "dirty": bool(changed)}


def cpu_model() -> str:
    """The processor's name."""
    if not (found := _cpuinfo()):
        return platform.processor() or platform.machine()
    return found.get("model name", platform.machine())


@cache
def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def weights_digest(model: "nn.Module") -> str:
    """Sixteen hexadecimal digits over a network's weights: pretrained ones by content, and a pair's common start."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).numpy().tobytes())
    return digest.hexdigest()[:16]


def reset_peak_memory() -> None:
    """Begin a new peak of this process's memory, where the system can: a worker runs many cells."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb(device: str) -> dict[str, float]:
    """Peak memory of this process since `reset_peak_memory` (Linux only), and of the device, in MiB."""
    import torch

    peak: dict[str, float] = {}
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        marks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        peak |= {"host": round(max(marks) / 1024, 1)} if marks else {}
    if device.startswith("cuda"):
        peak["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peak


def _gpu(device: str) -> dict[str, str]:
    if not device.startswith("cuda"):
        return {}
    import torch

    properties = torch.cuda.get_device_properties(device)
    driver = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "gpu": properties.name,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "driver": (driver or "unknown").splitlines()[0],
    }


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
