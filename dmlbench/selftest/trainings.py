"""Trainings that must agree: with themselves, with a resumed one, with one in bfloat16; and a step that never waits."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dmlbench.data.images import Split
from dmlbench.results.events import Epoch, Event
from dmlbench.results.history import Row, read_history
from dmlbench.results.store import Store, read_summary
from dmlbench.runner.cell import run_cell
from dmlbench.runner.matrix import Request, data_folder, plan
from dmlbench.runner.tasks import RunOptions
from dmlbench.selftest.conditions import (
    CPU,
    DRAWN,
    LARGE,
    SEED,
    SMALL,
    Conditions,
    SkipCheckError,
    glyphs,
    photographs,
    size_of,
    trainer_of,
)
from dmlbench.selftest.records import Figure, Outcome
from dmlbench.specs.cell import Cell
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.specs.registry import Registry
from dmlbench.training.device import autocast
from dmlbench.training.loop import train_epoch
from dmlbench.training.trainer import Trainer

REPEATED = ("ms+obdsd", "triplet")  # a teacher and diffusion; mining, which draws
WAITING = ("ms+obdsd", "triplet+psd", "margin+obdsd-mem", "proxyanchor+s2sd")
EPOCHS, STEPS = 2, 5
FEW = {"epochs": EPOCHS, "steps_per_epoch": 3, "batch_size": 28}  # of ResNet-50
RESUMED = "triplet+obdsd"
# Against float32, of embeddings over how far they are from their mean: others' are at 1.4. Of the loss relatively.
SPREAD, LOSS = 0.5, 2e-2
ERROR = "error of the embeddings over their spread"


def repeat(conditions: Conditions) -> Outcome:
    """Two trainings of each method from one seed, in deterministic mode."""
    small = load_protocol(SMALL, DRAWN, _training(epochs=EPOCHS, steps_per_epoch=STEPS))
    subjects: list[tuple[str, ProtocolSpec, Split]] = [(name, small, glyphs()[0]) for name in REPEATED]
    if conditions.on_cuda:
        large = load_protocol(LARGE, DRAWN, _training(**FEW))
        subjects.append((REPEATED[0], large, photographs(FEW["batch_size"] * FEW["steps_per_epoch"])))
    figures = []
    for method, protocol, split in subjects:
        first, second = (_trained(method, protocol, split, conditions) for _ in range(2))
        differing = _differing(first.weights, second.weights) + _differing_rows(first.rows, second.rows)
        subject = f"{method}, {protocol.name}"
        figures += [
            Figure(name=f"{subject}: numbers that differ", value=differing, at_most=0),
            Figure(name=f"{subject}: weights that were trained", value=first.changed, at_least=1),
        ]
    return Outcome(figures=tuple(figures))


def _training(**training: Any) -> dict[str, Any]:  # noqa: ANN401 - settings of a protocol
    return {"training": {"deterministic": True} | training, "model": {"weights": None}}


@dataclass(frozen=True)
class _Trained:
    """A training: the rows of its epochs, the network at its end, and how many of its parameters changed."""

    rows: list[Row]
    weights: dict[str, Tensor]
    changed: int


def _trained(method: str, protocol: ProtocolSpec, split: Split, conditions: Conditions) -> _Trained:
    trainer = trainer_of(method, protocol, size_of(split), conditions.device)
    begun = _copied(trainer.model.named_parameters())
    with trainer.batches(split, protocol, SEED) as batches:
        epochs = range(protocol.training.epochs)
        rows = [train_epoch(trainer, batches, epoch, SEED, conditions.device) for epoch in epochs]
    changed = _differing(begun, _copied(trainer.model.named_parameters()))
    return _Trained(rows, _copied(trainer.model.state_dict().items()), changed)


def _copied(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: value.detach().to(CPU, copy=True) for name, value in tensors}


def _differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> int:
    """How many numbers of two sets of tensors differ; all of one that only one of them has."""
    alone = sum(
        value.numel()
        for own, other in ((first, second), (second, first))
        for name, value in own.items()
        if name not in other
    )
    return alone + sum(int((first[name] != second[name]).sum()) for name in first.keys() & second.keys())


def _differing_rows(first: list[Row], second: list[Row]) -> int:
    """How many numbers of two histories differ, times apart."""
    pairs = zip(
        [*first, *[{}] * (len(second) - len(first))], [*second, *[{}] * (len(first) - len(second))], strict=True
    )
    return sum(
        own.get(name) != other.get(name)
        for own, other in pairs
        for name in own.keys() | other.keys()
        if not name.startswith("time/")
    )


def resume(conditions: Conditions) -> Outcome:
    """A cell that is killed after its first epoch and run again, against one that nothing interrupts."""
    folder = data_folder(None)
    (cell,) = plan(Request((RESUMED,), (DRAWN,), (SEED,), protocol=SMALL, settings=_short(), data_dir=folder))
    options = RunOptions(folder, device=str(conditions.device), keep=("weights",))
    whole, killed = (Store(conditions.scratch / name).folder(cell) for name in ("whole", "killed"))
    _finish(cell, whole, options)
    _kill(cell, killed, options)
    _finish(cell, killed, options)
    summary = read_summary(killed)
    weights = [load_file(folder / "weights.safetensors") for folder in (whole, killed)]
    figures = (
        Figure(
            name="numbers of the history that differ",
            value=_differing_rows(read_history(whole), read_history(killed)),
            at_most=0,
        ),
        Figure(name="weights that differ", value=_differing(*weights), at_most=0),
        Figure(name="times it was resumed", value=len(summary.resumed) if summary else 0, at_least=1, at_most=1),
    )
    return Outcome(figures=figures, note=f"{RESUMED} on {DRAWN}, killed after epoch 1 of {EPOCHS}")


def _short() -> tuple[str, ...]:
    few = {"training.epochs": EPOCHS, "training.steps_per_epoch": STEPS, "evaluation.clustering_runs": 1}
    return tuple(f"{name}={value}" for name, value in few.items())


def _finish(cell: Cell, folder: Path, options: RunOptions) -> None:
    """Run a cell to its end; raises RuntimeError where it fails."""
    halted: list[str] = []
    run_cell(cell, folder, options, lambda event: halted.extend(_problem(event)))
    if halted:
        raise RuntimeError(f"{cell.label}: {halted[0]}")
    summary = read_summary(folder)
    if summary is None or not summary.done:
        raise RuntimeError(f"{cell.label}: left no result")


def _problem(event: Event) -> list[str]:
    error = getattr(event, "error", None)
    return [error.message] if error else []


def _kill(cell: Cell, folder: Path, options: RunOptions) -> None:
    """Run a cell in a process that is killed after the first epoch; raises RuntimeError where it ends otherwise."""
    process = multiprocessing.get_context("spawn").Process(target=_run_and_die, args=(cell, folder, options))
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"{cell.label}: ended with exit code {process.exitcode} before it was killed")


def _run_and_die(cell: Cell, folder: Path, options: RunOptions) -> None:
    def die(event: Event) -> None:
        if isinstance(event, Epoch) and event.epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    run_cell(cell, folder, options, die)


def waits(conditions: Conditions) -> Outcome:
    """Steps of an epoch under torch's debug mode, in which whatever makes the host wait for the device raises."""
    if not conditions.on_cuda:
        raise SkipCheckError("a CPU has no queue that the host could wait for")
    begun, split = time.perf_counter(), glyphs()[0]
    protocol = load_protocol(SMALL, DRAWN, _training(epochs=EPOCHS, steps_per_epoch=2))
    names, found = every_part(), dict[str, str]()
    for method in names:
        if method in WAITING or time.perf_counter() - begun < conditions.seconds:
            found[method] = first_wait(trainer_of(method, protocol, size_of(split), conditions.device), protocol, split)
    figures = tuple(
        Figure(name=f"{method}: steps that wait", value=bool(why), at_most=0) for method, why in found.items()
    )
    why = "; ".join(sorted({why for why in found.values() if why}))
    return Outcome(figures=figures, note=why or f"{len(found)} of {len(names)} methods")


def every_part() -> list[str]:
    """Every loss, and `ms` with every modifier that it goes with; those come first that differ most."""
    names = [name for name in Registry().names() if "+" not in name or name.startswith("ms+")]
    return [*WAITING, *(name for name in names if name not in WAITING)]


def first_wait(trainer: Trainer, protocol: ProtocolSpec, split: Split) -> str:
    """Why the first step that waits in the second epoch does; "" where none waits."""
    generator = torch.Generator(trainer.device).manual_seed(SEED)
    trainer.train()
    with trainer.batches(split, protocol, SEED) as batches:
        for batch in batches.epoch(0):
            trainer.step(batch, 0, generator)
        trainer.end_epoch()
        before = torch.cuda.get_sync_debug_mode()
        try:
            for batch in batches.epoch(1):
                torch.cuda.set_sync_debug_mode("error")
                trainer.step(batch, 1, generator)
                torch.cuda.set_sync_debug_mode(before)
        except RuntimeError as error:
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return ""


def bfloat16(conditions: Conditions) -> Outcome:
    """Embeddings and loss of a step from the same weights and batch, in both precisions."""
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    for precision in ("none", "bfloat16"):
        protocol, split = conditions.usual(autocast=precision, steps_per_epoch=1, batch_size=FEW["batch_size"])
        trainer = trainer_of("ms", protocol, size_of(split), conditions.device)
        trainer.train()
        with trainer.batches(split, protocol, SEED) as batches:
            (batch,) = islice(batches.epoch(0), 1)
        with torch.no_grad(), autocast(conditions.device, precision):
            embeddings = trainer.model(batch.images).float()
        loss, _ = trainer.step(batch, 0, torch.Generator(conditions.device).manual_seed(SEED))
        kept[precision] = embeddings.cpu().double(), loss.cpu().double()
    (embeddings, loss), (half, half_loss) = kept["none"], kept["bfloat16"]
    error = (embeddings - half).norm() / (embeddings - embeddings.mean(dim=0)).norm()
    figures = (
        Figure(name=ERROR, value=float(error), at_most=SPREAD),
        Figure(name="relative difference of the loss", value=float(((loss - half_loss) / loss).abs()), at_most=LOSS),
        # Without any the precision would not have changed.
        Figure(name="embeddings that differ", value=int((embeddings != half).any(dim=1).sum()), at_least=1),
    )
    return Outcome(figures=figures, note=f"ms, {protocol.name}")
