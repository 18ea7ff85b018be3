"""Run one cell, top to bottom: this is the whole program, and everything else serves it."""

import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save

from dmlbench import provenance
from dmlbench.data.images import Dataset, Split, load_dataset, split_classes
from dmlbench.data.loader import TrainingBatches
from dmlbench.errors import DivergedError, UserError
from dmlbench.models import EmbeddingModel, build_model
from dmlbench.randomness import stream_seed
from dmlbench.run_options import RunOptions
from dmlbench.selection import selections
from dmlbench.spec import Cell
from dmlbench.store import CellWriter, Row, claim, read_summary, write_atomically
from dmlbench.training.components import build_learner
from dmlbench.training.device import prepare, resolve_device
from dmlbench.training.evaluator import Evaluator
from dmlbench.training.loop import evaluate_epoch, train_epoch

Emit = Callable[[dict[str, Any]], None]


def run_cell(cell: Cell, folder: Path, options: RunOptions, emit: Emit) -> bool:
    """Run a cell into its folder, unless another process is at it or has just finished it.

    Emits `{"event": "started" | "epoch" | "finished" | "claimed", ...}`. A failure is a result too and raises
    nothing: its summary carries the error.

    Returns:
        Whether this process may run another cell: after an error a CUDA context can be beyond use.
    """
    with claim(folder) as claimed:
        if not claimed or ((finished := read_summary(folder)) and finished["status"] == "done"):
            emit({"event": "claimed"})
            return True
        writer = CellWriter(folder)
        writer.begin(cell)
        emit({"event": "started"})
        started, clock = datetime.now(UTC), time.perf_counter()
        # Both before training: sources may change while it runs, and a broken device tells nothing of itself.
        code = {"digest": provenance.code_digest(), **provenance.git_state()}
        result: dict[str, Any] = {"cell": cell.index(), "started": started.isoformat(timespec="seconds"), "code": code}
        result["environment"] = {}
        try:
            device = resolve_device(options.device)
            result["environment"] = provenance.environment(str(device)) | options.machine_load()
            result |= {"status": "done", **_train(cell, writer, options, device, emit)}
        except Exception as error:  # noqa: BLE001 - any failure is a result, and the matrix goes on
            writer.log(traceback.format_exc())
            result |= {"status": "failed", "error": _describe(error)}
        writer.finish(result | {"total_s": time.perf_counter() - clock})
        emit({"event": "finished", "status": result["status"], "error": result.get("error")})
        return result.get("error", {}).get("kind") != "error" or not options.device.startswith("cuda")


def _train(cell: Cell, writer: CellWriter, options: RunOptions, device: torch.device, emit: Emit) -> dict[str, Any]:
    protocol, seed = cell.protocol, cell.seed
    prepare(protocol.training, device)
    provenance.reset_peak_memory()

    dataset = load_dataset(cell.dataset, options.data_dir, writer.log)
    train, held_out = split_classes(dataset.train, protocol.validation.classes)
    splits = {"test": dataset.test} | ({"validation": held_out} if held_out else {})
    workers = options.data_workers
    evaluators = {name: Evaluator(split, protocol, seed, device, workers) for name, split in splits.items()}

    model = _seeded_model(cell, device)
    start = provenance.weights_digest(model)
    torch.manual_seed(stream_seed(seed, 0, "loss"))
    learner = build_learner(cell.method, protocol, model, len(train.class_names), device)

    def record(row: Row) -> None:
        writer.append(row)
        emit({"event": "epoch", "epoch": row["epoch"], "epochs": epochs, "row": row})

    epochs = protocol.training.epochs
    record({"epoch": 0} | evaluate_epoch(0, epochs, protocol.evaluation, model, evaluators))
    with TrainingBatches(train, protocol, seed, device, workers) as batches:
        for epoch in range(epochs):
            torch.manual_seed(stream_seed(seed, epoch, "model"))  # dropout and the like, should a backbone have any
            row = train_epoch(learner, batches, epoch, seed, device)
            row |= evaluate_epoch(epoch + 1, epochs, protocol.evaluation, model, evaluators)
            record({"epoch": epoch + 1} | row)

    _keep(options.keep, writer.folder, model, evaluators["test"])
    return {
        "initial_weights": start,
        "selections": selections(writer.rows),
        "timing": _timing(writer.rows),
        "dataset": _dataset(cell, dataset, train),
        "peak_memory_mb": provenance.peak_memory_mb(str(device)),
    }


def _seeded_model(cell: Cell, device: torch.device) -> EmbeddingModel:
    """The network as every method of a seed starts from it."""
    torch.manual_seed(stream_seed(cell.seed, 0, "weights"))
    model = build_model(cell.protocol.model, cell.protocol.input).to(device)
    return model.to(memory_format=torch.channels_last) if cell.protocol.training.channels_last else model


def _describe(error: Exception) -> dict[str, str]:
    kind = {DivergedError: "diverged", UserError: "usage"}.get(type(error), "error")
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    return {"kind": kind, "class": type(error).__name__, "message": message}


def _timing(rows: list[Row]) -> dict[str, Any]:
    """Sums over the run; the step time is the median over epochs from the second, the first warms up."""
    trained = [row for row in rows if row["epoch"]]
    settled = trained[1:] or trained
    phases = [key for key in trained[0] if key.startswith("time/") and key.endswith("_s")]
    totals = {key.removeprefix("time/"): sum(float(row[key] or 0) for row in rows if key in row) for key in phases}
    return {
        "step_ms": median(float(row["time/step_ms"] or 0) for row in settled),
        "train_s": totals.pop("train_s"),
        "evaluation_s": totals.pop("evaluation_s"),
        "phases": totals,
    }


def _dataset(cell: Cell, dataset: Dataset, train: Split) -> dict[str, Any]:
    """What was trained and tested on; classes held out for validation count as neither."""
    return cell.dataset.identity() | {
        "skipped": list(cell.dataset.skipped),
        "fingerprint": dataset.fingerprint,
        "train_images": len(train.labels),
        "train_classes": len(train.class_names),
        "held_out_images": len(dataset.train.labels) - len(train.labels),
        "held_out_classes": len(dataset.train.class_names) - len(train.class_names),
        "test_images": len(dataset.test.labels),
        "test_classes": len(dataset.test.class_names),
    }


def _keep(keep: tuple[str, ...], folder: Path, model: EmbeddingModel, test: Evaluator) -> None:
    """Save what `--keep` asks for: final weights, and the test embeddings with their labels."""
    if "weights" in keep:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        write_atomically(folder / "weights.safetensors", save(state))
    if "embeddings" in keep:
        tensors = {"embeddings": test.embed(model).cpu().contiguous(), "labels": test.labels.contiguous()}
        write_atomically(folder / "embeddings.safetensors", save(tensors))
