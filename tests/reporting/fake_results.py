"""A results folder as training writes it, with plausible numbers and without training."""

import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from dmlbench.results.history import selections
from dmlbench.results.store import Store
from dmlbench.results.writer import CellWriter
from dmlbench.specs.cell import Cell, DatasetSpec, MethodSpec, Part, ResolvedValue
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec, ProtocolSpec, TrainingSpec
from dmlbench.specs.registry import UNPUBLISHED, UNTUNED

LEVEL = {"contrastive": 0.585, "triplet": 0.60, "margin": 0.615, "ms": 0.62, "proxyanchor": 0.606}
GAIN = {"": 0.0, "psd": 0.006, "obdsd": 0.03, "dm2": -0.004}
STEP_MS = {"": 40.0, "psd": 52.0, "obdsd": 54.0, "dm2": 81.0}
METHODS = ("ms", "ms+psd", "ms+obdsd", "proxyanchor", "proxyanchor+psd")


def protocol(epochs: int = 12, validation: float = 0.0) -> ProtocolSpec:
    return ProtocolSpec(
        name="conv4-64",
        title="Conv4, 64-d, from scratch at 28 px",
        model=ModelSpec(backbone="conv4", embedding_dim=64),
        input=InputSpec(channels=1, size=28, resize=28, mean=(0.0,), std=(1.0,), augmentation="affine"),
        training=TrainingSpec(epochs=epochs, learning_rate=0.001),
        validation={"classes": validation},
    )


def method(name: str, temperature: float = 1.0) -> MethodSpec:
    base, _, modifier = name.partition("+")
    alpha = ResolvedValue(value=2.0, source="official code, default")
    tau = ResolvedValue(value=temperature, source="parser default", published=False)
    loss = Part(name=base, title=base, kind="loss", class_name="multi_similarity", parameters={"alpha": alpha})
    if not modifier:
        return MethodSpec(name=name, loss=loss)
    distillation = Part(
        name=modifier,
        title=modifier,
        kind="distillation",
        class_name="psd",
        teacher_mode="train",
        parameters={"tau": tau},
    )
    marks = (UNTUNED, UNPUBLISHED) if base == "proxyanchor" else (UNTUNED,)
    return MethodSpec(name=name, loss=loss, distillation=distillation, marks=marks)


def make_cell(name: str, seed: int, dataset: str = "glyphs", *, overrides: tuple[str, ...] = (), **settings) -> Cell:
    tau = settings.pop("tau", 1.0)
    return Cell(method(name, tau), DatasetSpec(name=dataset, version="1"), protocol(**settings), seed, overrides)


def named_otherwise(cell: Cell, name: str) -> Cell:
    """The same of a base that a user's file gives any name."""
    loss = cell.method.loss.model_copy(update={"name": name})
    return replace(cell, method=cell.method.model_copy(update={"name": name, "loss": loss}))


def _without_mode(cell: Cell) -> Cell:
    """The cell whose hash the numbers in these tests were drawn by."""
    if (distillation := cell.method.distillation) is None:
        return cell
    update = {"distillation": distillation.model_copy(update={"teacher_mode": "eval"})}
    return replace(cell, method=cell.method.model_copy(update=update))


def history(cell: Cell) -> list[dict]:
    """Curves that rise and level off; a seed shifts all methods alike, as paired runs do."""
    shared = np.random.default_rng(zlib.crc32(f"{cell.dataset.name} {cell.seed}".encode()))
    own = np.random.default_rng(zlib.crc32(f"{_without_mode(cell).hash}".encode()))
    base, _, modifier = cell.method.name.partition("+")
    start = (0.31 if cell.dataset.name == "glyphs" else 0.44) + shared.normal(0, 0.004)
    lift = 0.0 if cell.dataset.name == "glyphs" else 0.13
    final = LEVEL.get(base, 0.6) + GAIN.get(modifier, 0.0) + lift + shared.normal(0, 0.006) + own.normal(0, 0.003)
    epochs = cell.protocol.training.epochs
    rows = []
    for epoch in range(epochs + 1):
        recall = start + (final - start) * (1 - math.exp(-4 * epoch / epochs)) / (1 - math.exp(-4))
        recall += own.normal(0, 0.003) if epoch else 0.0
        rows.append(_row(cell, epoch, recall, own))
    return rows


def _row(cell: Cell, epoch: int, recall: float, own: np.random.Generator) -> dict:
    row = {"epoch": epoch}
    modifier = cell.method.name.partition("+")[2]
    if epoch % 2 == 0 or epoch == cell.protocol.training.epochs:
        row |= {f"test/recall_at_{k}": 1 - (1 - recall) ** (1 + 0.45 * math.log2(k)) for k in (1, 2, 4, 8)}
        row |= {"test/map_at_r": recall * 0.45, "test/r_precision": recall * 0.55, "test/spectral_decay": 0.4}
        if cell.protocol.validation.classes:
            row["validation/map_at_r"] = recall * 0.5 + own.normal(0, 0.01)
    if epoch in (0, cell.protocol.training.epochs):
        row |= {"test/nmi": 0.3 + recall / 2, "test/ami": 0.25 + recall / 2}
    if epoch:
        step = STEP_MS.get(modifier, 60.0) * own.normal(1, 0.01)
        row |= {"train/loss": 3 / epoch, "time/forward_s": step / 60, "time/train_s": step / 25, "time/step_ms": step}
    return row | {"time/evaluation_s": 0.8}


def write_cell(
    root: Path, cell: Cell, /, *, machine: str = "a1b2c3d4e5f6", rows: list[dict] | None = None, **changes
) -> Path:
    """Write one finished cell the way the runner does; `changes` go into its summary."""
    folder = Store(root).folder(cell)
    folder.mkdir(parents=True)
    writer = CellWriter(folder)
    writer.begin(cell)
    *earlier, last = rows if rows is not None else history(cell)
    writer.rows = earlier  # one write of the whole history instead of one an epoch
    writer.append(last)
    steps = [row["time/step_ms"] for row in writer.rows if "time/step_ms" in row]
    environment = {"machine": machine, "device": "cpu", "cpu": "Example CPU", "cores": 2, "system": "Linux x86_64"}
    versions = {"python": "3.12.4", "dmlbench": "0.1.0", "torch": "2.9.0", "numpy": "2.3.0"}
    summary = {
        "status": "done",
        "selections": selections(writer.rows),
        "timing": {"step_ms": float(np.median(steps[1:])), "train_s": 30.0, "evaluation_s": 5.0, "phases": {}},
        "dataset": cell.dataset.model_dump()
        | {
            "fingerprint": "f00dfeed12345678",
            "train_images": 4000,
            "train_classes": 100,
            "test_images": 2000,
            "test_classes": 50,
        },
        "environment": environment | versions,
        "cell": cell.index(),
        "started": "2025-11-20T10:00:00+00:00",
        "total_s": 36.0,
        "code": {"digest": "0123456789abcdef", "commit": "ab" * 20, "dirty": False},
    }
    writer.finish(summary | changes)
    return folder


def write_failure(root: Path, cell: Cell, message: str = "loss is nan at epoch 3, step 7") -> Path:
    error = {"kind": "diverged", "class": "DivergedError", "message": message}
    folder = Store(root).folder(cell)
    folder.mkdir(parents=True)
    writer = CellWriter(folder)
    writer.begin(cell)
    writer.finish({"status": "failed", "error": error, "environment": {"machine": "a1b2c3d4e5f6", "dmlbench": "0.1.0"},
                   "cell": cell.index(), "started": "2025-11-20T10:00:00+00:00", "total_s": 3.0,
                   "code": {"digest": "0123456789abcdef"}})  # fmt: skip
    return folder
