"""Run one cell, top to bottom: this is the whole program, and everything else serves it."""

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from dmlbench.atomic import write_atomically
from dmlbench.data.images import Dataset, Split, load_dataset, split_classes
from dmlbench.data.loader import TrainingBatches
from dmlbench.errors import DivergedError, StorageError, UserError
from dmlbench.models.model import EmbeddingModel, weights_of
from dmlbench.results import environment as provenance
from dmlbench.results.history import Row, selections, timing
from dmlbench.results.locks import LostClaimError, claim
from dmlbench.results.store import has_ended
from dmlbench.results.writer import CellWriter, storing
from dmlbench.runner.events import RunOptions
from dmlbench.seeding import stream_seed
from dmlbench.specs.cell import Cell
from dmlbench.training import checkpoint
from dmlbench.training.build import TrainingSet, at_networks_rate, build_seeded_model, build_trainer
from dmlbench.training.checkpoint import Checkpoint
from dmlbench.training.device import prepare, resolve_device
from dmlbench.training.evaluator import Evaluator
from dmlbench.training.loop import evaluate_epoch, train_epoch
from dmlbench.training.trainer import Trainer

Emit = Callable[[dict[str, Any]], None]


def run_cell(cell: Cell, folder: Path, options: RunOptions, emit: Emit, failure: int | None = None) -> bool:
    """Run a cell into its folder, unless another process is at it or has just ended it.

    Args:
        cell: What to train.
        folder: Where it is written.
        options: How it is run.
        emit: Takes what happens.
        failure: The time stamp of an earlier failure that may be replaced.

    Returns:
        Whether this process may run another cell: after an error a CUDA context can be beyond use.
    """
    try:
        with storing(folder), claim(folder) as claimed:
            ended = has_ended(folder, failure)
            if claimed is None or ended:
                emit({"event": "claimed", "done": ended})
                return True
            return run_claimed(cell, CellWriter(folder, claimed.check), options, emit)
    except (StorageError, UserError) as error:  # of the claim itself, or of a damaged result that is there
        emit({"event": "halted", "error": _describe(error)})
        return True


def run_claimed(cell: Cell, writer: CellWriter, options: RunOptions, emit: Emit) -> bool:
    """Run a cell whose claim is held, from its last checkpoint where there is one.

    Emits `{"event": "started" | "epoch" | "finished" | "halted", ...}`. A failure is a result too and raises nothing:
    its summary carries the error. `halted` is no failure of the cell: its folder cannot be written, or another host
    took it over; what was written before is whole, and the cell can be gone on with.

    Returns:
        As `run_cell`.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    # Both before training: sources may change while it runs, and a broken device tells nothing of itself.
    code = {"digest": provenance.code_digest(), **provenance.git_state()}
    result: dict[str, Any] = {"cell": cell.index(), "started": started.isoformat(timespec="seconds"), "code": code}
    result["environment"] = {}
    try:
        writer.begin(cell)
        emit({"event": "started"})
        try:
            device = resolve_device(options.device)
            result["environment"] = provenance.environment(str(device)) | options.machine_load()
            result |= {"status": "done", **_train(cell, writer, options, result, emit)}
        except (StorageError, LostClaimError):
            raise
        except Exception as error:  # noqa: BLE001 - any failure is a result, and the matrix goes on
            writer.log(traceback.format_exc())
            result |= {"status": "failed", "error": _describe(error)}
        earlier = result.pop("earlier_s", 0.0)
        writer.finish(result | {"total_s": earlier + time.perf_counter() - clock})
        if result["status"] == "done" or result["error"]["kind"] == "diverged":  # nothing is left to go on with
            with writer.writing():
                checkpoint.clear(writer.folder)
    except (StorageError, LostClaimError) as error:
        emit({"event": "halted", "error": _describe(error)})
        return True
    emit({"event": "finished", "status": result["status"], "error": result.get("error")})
    return result.get("error", {}).get("kind") not in ("error", "memory") or not options.device.startswith("cuda")


def _train(cell: Cell, writer: CellWriter, options: RunOptions, result: dict[str, Any], emit: Emit) -> dict[str, Any]:
    protocol, seed, begun = cell.protocol, cell.seed, time.perf_counter()
    device = torch.device(result["environment"]["device"])
    prepare(protocol.training, device)
    provenance.reset_peak_memory()

    dataset = load_dataset(cell.dataset, options.data_dir, writer.log)
    train, held_out = split_classes(dataset.train, protocol.validation.classes)
    splits = {"test": dataset.test} | ({"validation": held_out} if held_out else {})
    classes = {"test": len(train.class_names)}  # what published NMI counts clusters by
    evaluators = {
        name: Evaluator(split, protocol, seed, device, options.data_workers, training_classes=classes.get(name))
        for name, split in splits.items()
    }

    model = build_seeded_model(protocol, seed, device)
    start = provenance.weights_digest(model)
    torch.manual_seed(stream_seed(seed, 0, "loss"))
    size = TrainingSet(len(train.class_names), len(train.labels))
    trainer = build_trainer(cell.method, protocol, model, size, device, seed=seed)
    past = _resume(_made_by(result, dataset, start), result["environment"], writer, trainer)

    epochs = protocol.training.epochs
    record = _Recorder(writer, trainer, past, emit, begun)
    if not writer.rows:
        record({"epoch": 0} | evaluate_epoch(0, epochs, protocol.evaluation, trainer.models, evaluators))
    with _batches(train, cell, device, options, trainer) as batches:
        for epoch in range(past.epoch, epochs):
            writer.log(f"epoch {epoch + 1} of {epochs} begins")
            torch.manual_seed(stream_seed(seed, epoch, "model"))  # dropout and the like, should a backbone have any
            row = train_epoch(trainer, batches, epoch, seed, device)
            row |= evaluate_epoch(epoch + 1, epochs, protocol.evaluation, trainer.models, evaluators)
            record({"epoch": epoch + 1} | row)

    _keep(options.keep, writer, trainer.models, evaluators["test"])
    peak = provenance.peak_memory_mb(str(device))
    unrated = at_networks_rate(trainer.networks[0].criterion, cell.method.loss)
    own = {"initial_weights": start, "dataset": _dataset(cell, dataset, train), "peak_memory_mb": peak}
    return own | ({"at_networks_rate": unrated} if unrated else {}) | record.sums(result["environment"], cell)


def _batches(train: Split, cell: Cell, device: torch.device, options: RunOptions, trainer: Trainer) -> TrainingBatches:
    return TrainingBatches(
        train,
        cell.protocol,
        cell.seed,
        device,
        options.data_workers,
        views=trainer.views,
        sampler=trainer.sampler,
        augmentation=trainer.augmentation,
    )


class _Recorder:
    """Takes an epoch's row to the checkpoint, the history and the runner, in this order."""

    def __init__(self, writer: CellWriter, trainer: Trainer, past: Checkpoint, emit: Emit, begun: float) -> None:
        self._writer, self._trainer, self._past, self._emit = writer, trainer, past, emit
        self._begun, self._earlier = begun, past.seconds

    def __call__(self, row: Row) -> None:
        self._past = replace(
            self._past,
            epoch=int(row["epoch"] or 0),
            trainer=self._trainer.state(),
            rows=[*self._writer.rows, row],
            seconds=self._earlier + time.perf_counter() - self._begun,
        )
        with self._writer.writing():
            checkpoint.save(self._writer.folder, self._past)
        self._writer.append(row)
        self._emit({"event": "epoch", "epoch": row["epoch"], "epochs": self._trainer.epochs, "row": row})

    def sums(self, environment: dict[str, Any], cell: Cell) -> dict[str, Any]:
        """What comes out over all attempts at the cell."""
        rows, past = self._writer.rows, self._past
        return {
            "selections": selections(rows),
            "timing": timing(rows, past.resumed),
            "environment": provenance.of_all_attempts(environment, past.places, cell.hash),
            "resumed": past.resumed,
            "earlier_s": self._earlier,
        }


def _made_by(result: dict[str, Any], dataset: Dataset, start: str) -> dict[str, str]:
    """What the numbers depend on, which all attempts at a cell must share."""
    kind = provenance.kind_of_machine(result["environment"])
    given = {"cell": result["cell"]["hash"], "code": result["code"]["digest"]}
    return given | kind | {"data": dataset.fingerprint, "initial weights": start}


def _resume(made_by: dict[str, str], environment: dict[str, Any], writer: CellWriter, trainer: Trainer) -> Checkpoint:
    """Bring writer and trainer to where the last attempt ended, or to the beginning."""
    past = checkpoint.load(writer.folder, made_by, writer.log)
    if past.rows:
        try:
            trainer.restore(past.trainer)
        except Exception as error:
            checkpoint.clear(writer.folder)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(
                f"the method's state cannot be restored ({reason}); its checkpoint was removed",
                hint="--retry failed begins the cell again; see CONTRIBUTING.md on what a method keeps",
            ) from error
        writer.resume(past.rows)
        past.resumed.append(past.epoch)
    else:
        writer.restart()
    past.places.append(provenance.place(environment))
    return past


def _describe(error: Exception) -> dict[str, str]:
    kinds = {DivergedError: "diverged", UserError: "usage", StorageError: "storage", LostClaimError: "claim"}
    kind, name = kinds.get(type(error), "error"), type(error).__name__
    message = str(error).splitlines()[0] if str(error) else name
    if isinstance(error, torch.OutOfMemoryError):
        kind = "memory"
        message += "; what helps: nothing else on this GPU, a smaller --per-gpu, --set training.autocast=bfloat16"
    return {"kind": kind, "class": name, "message": message}


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


def _keep(keep: tuple[str, ...], writer: CellWriter, networks: list[EmbeddingModel], test: Evaluator) -> None:
    """Save what `--keep` asks for: final weights, and the test embeddings, of a cohort's first network."""
    if "weights" in keep:
        with writer.writing():
            write_atomically(writer.folder / "weights.safetensors", save(weights_of(networks)))
    if "embeddings" in keep:
        content = test.embeddings_file(networks[0])
        with writer.writing():
            write_atomically(writer.folder / "embeddings.safetensors", content)
