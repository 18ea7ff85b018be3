"""Run one cell, top to bottom: this is the whole program, and everything else serves it."""

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from dmlbench.atomic import write_atomically
from dmlbench.data.images import Dataset, Split, load_of_cell, split_classes
from dmlbench.data.loader import TrainingBatches
from dmlbench.data.samplers import check_batches, check_ranks, epoch_steps
from dmlbench.errors import DivergedError, StorageError, UserError
from dmlbench.models.model import EmbeddingModel, weights_of
from dmlbench.models.parts import check_separable
from dmlbench.results import environment as provenance
from dmlbench.results.events import Claimed, Epoch, Event, Finished, Halted, Started, failure
from dmlbench.results.history import Row, epoch_of, selections, timing
from dmlbench.results.locks import LostClaimError, claim
from dmlbench.results.records import Data, Environment, Failure, Index, Summary
from dmlbench.results.store import has_ended
from dmlbench.results.writer import CellWriter, storing
from dmlbench.runner.ranks import OtherRanks, RankError
from dmlbench.runner.tasks import RunOptions
from dmlbench.seeding import stream_seed
from dmlbench.specs.cell import Cell
from dmlbench.training import checkpoint
from dmlbench.training.build import TrainingSet, at_networks_rate, build_seeded_model, build_trainer
from dmlbench.training.checkpoint import Checkpoint, Pace
from dmlbench.training.device import prepare, resolve_device
from dmlbench.training.evaluator import Evaluator
from dmlbench.training.loop import evaluate_epoch, train_epoch
from dmlbench.training.ranks import Ranks
from dmlbench.training.trainer import Trainer

Emit = Callable[[Event], None]
# Takes the digest of another rank's initial weights; gives the state to begin from, and what tells the next epoch.
Begin = Callable[[str], tuple[dict[str, Any] | None, Callable[[], int | None]]]


def run_cell(cell: Cell, folder: Path, options: RunOptions, emit: Emit, failure_stamp: int | None = None) -> bool:
    """Run a cell into its folder, unless another process is at it or has just ended it.

    An earlier failure with the given time stamp is replaced.

    Returns:
        Whether this process may run another cell: after an error a CUDA context can be beyond use.
    """
    try:
        with storing(folder), claim(folder) as claimed:
            ended = has_ended(folder, failure_stamp)
            if claimed is None or ended:
                emit(Claimed(done=ended))
                return True
            return run_claimed(cell, CellWriter(folder, claimed.check), options, emit)
    except (StorageError, UserError) as error:  # of the claim itself, or of a damaged result that is there
        emit(Halted(failure_of(error)))
        return True


def run_claimed(cell: Cell, writer: CellWriter, options: RunOptions, emit: Emit) -> bool:
    """Run a cell whose claim is held, from its last checkpoint where there is one.

    Emits `Started`, an `Epoch` for each, and `Finished` or `Halted`. A failure is a result too and raises nothing: its
    summary carries the error. `Halted` is no failure of the cell: its folder cannot be written, or another host took it
    over; what was written before is whole, and the cell can be resumed.

    Returns:
        As `run_cell`.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    # Both before training: sources may change while it runs, and a broken device cannot be asked.
    made: dict[str, object] = {
        "cell": Index(**cell.index()), "started": started, "code": provenance.code_state(), "environment": Environment()
    }  # fmt: skip
    try:
        writer.begin(cell)
        emit(Started())
        try:
            device = resolve_device(options.device)
            environment = provenance.environment(str(device)).model_copy(update={**options.machine_load()})
            made["environment"] = environment

            def give_up(failed: Failure) -> None:
                emit(Finished(_concluded(writer, made | {"status": "failed", "error": failed}, clock)))

            with OtherRanks(cell, options, device, give_up) as others:
                result = {"status": "done", **_train(cell, writer, options, environment, emit, others=others)}
        except (StorageError, LostClaimError):
            raise
        except Exception as error:  # noqa: BLE001 - any failure is a result, and the other cells run
            writer.log(traceback.format_exc())
            result = {"status": "failed", "error": failure_of(error)}
        failed = _concluded(writer, made | result, clock)
    except (StorageError, LostClaimError) as error:
        emit(Halted(failure_of(error)))
        return True
    emit(Finished(failed))
    on_gpu, broken = options.device.startswith("cuda"), options.gpus_per_cell > 1
    return not (on_gpu and failed and (broken or failed.kind in ("error", "memory")))


def _concluded(writer: CellWriter, result: dict[str, object], clock: float) -> Failure | None:
    """Write how a cell ended, which began at a time of the clock; its failure, if it is one."""
    summary = Summary.model_validate(result)
    total_s = summary.total_s + time.perf_counter() - clock
    writer.finish(summary.model_copy(update={"total_s": total_s}).as_json())
    if summary.error is None or summary.error.kind == "diverged":  # nothing is left to resume
        with writer.writing():
            checkpoint.clear(writer.folder)
    return summary.error


def _train(
    cell: Cell, writer: CellWriter, options: RunOptions, environment: Environment, emit: Emit, *, others: OtherRanks
) -> dict[str, object]:
    """Train and score a cell; what its summary says of that, with `total_s` of earlier attempts."""
    protocol, begun, device = cell.protocol, time.perf_counter(), torch.device(str(environment.device))
    order = cell.seed_of("order")
    prepare(protocol.training, device)
    provenance.reset_peak_memory()

    dataset = load_of_cell(cell, options.data_dir, writer.log)
    train, held_out = split_classes(dataset.train, protocol.validation.classes)
    evaluator = partial(Evaluator, protocol=protocol, seed=cell.seed, device=device, data_workers=options.data_workers)
    # Published NMI counts clusters by the training classes. A fold's queries search among the images trained on, too.
    distractors = train if cell.dataset.fold else None
    evaluators = {"test": evaluator(dataset.test, training_classes=len(train.class_names), distractors=distractors)}
    evaluators |= {"validation": evaluator(held_out)} if held_out else {}

    trainer, start = _built(cell, train, device, Ranks(0, options.gpus_per_cell))
    past = _resume(_made_by(cell, environment, dataset, start), environment, writer, trainer)
    others.begin(start, past.trainer if past.rows else None)

    epochs = protocol.training.epochs
    record = _Recorder(writer, trainer, past, emit, begun)
    if not writer.rows:
        record({"epoch": 0} | evaluate_epoch(0, epochs, protocol.evaluation, trainer.models, evaluators))
    with trainer.batches(train, protocol, order, options.data_workers) as batches:
        for epoch in range(past.epoch, epochs):
            writer.log(f"epoch {epoch + 1} of {epochs} begins")
            others.train(epoch)
            row = _trained(trainer, batches, epoch, order)
            row |= evaluate_epoch(epoch + 1, epochs, protocol.evaluation, trainer.models, evaluators)
            record({"epoch": epoch + 1} | row)

    _keep(options.keep, writer, trainer.models, evaluators["test"])
    peak = provenance.peak_memory_mb(str(device))
    unrated = at_networks_rate(trainer.networks[0].criterion, cell.method.loss)
    trained = {"initial_weights": start, "dataset": _dataset(cell, dataset, train), "peak_memory_mb": peak}
    return trained | ({"at_networks_rate": unrated} if unrated else {}) | record.sums(environment, cell)


def train_along(cell: Cell, options: RunOptions, rank: int, begin: Begin) -> None:
    """Train a cell as another rank than 0, epoch by epoch, from a state and as long as `begin` gives both."""
    device = torch.device(options.device)
    prepare(cell.protocol.training, device)
    train, _ = split_classes(
        load_of_cell(cell, options.data_dir, lambda _: None).train, cell.protocol.validation.classes
    )
    trainer, start = _built(cell, train, device, Ranks(rank, options.gpus_per_cell))
    state, next_epoch = begin(start)
    if state is not None:
        trainer.restore(state)
    order = cell.seed_of("order")
    with trainer.batches(train, cell.protocol, order, options.data_workers) as batches:
        while (epoch := next_epoch()) is not None:
            _trained(trainer, batches, epoch, order)


def _trained(trainer: Trainer, batches: TrainingBatches, epoch: int, order: int) -> Row:
    """Train an epoch, which every rank begins with the same random streams."""
    torch.manual_seed(stream_seed(order, epoch, "model"))  # dropout and the like, should a backbone have any
    return train_epoch(trainer, batches, epoch, order, trainer.device)


def _built(cell: Cell, train: Split, device: torch.device, ranks: Ranks) -> tuple[Trainer, str]:
    """A cell's trainer, and the digest of its first network's initial weights; UserError where it could not train."""
    training, init = cell.protocol.training, cell.seed_of("init")
    size = TrainingSet(len(train.class_names), len(train.labels))
    check_batches(size.classes, size.images, training)
    check_ranks(ranks.size, training.batch_size)
    model = build_seeded_model(cell.protocol, init, device)
    start = provenance.weights_digest(model)
    if ranks.size > 1:
        check_separable(cell.protocol.model.backbone, model, cell.protocol.input)
    torch.manual_seed(stream_seed(init, 0, "loss"))
    trainer = build_trainer(cell.method, cell.protocol, model, size, device, seed=init, ranks=ranks)
    if trainer.modifier is not None:
        steps = training.epochs * epoch_steps(size.classes, size.images, training)
        try:
            trainer.modifier.check_training(steps, training.batch_size)
        except ValueError as error:
            raise UserError(f"{cell.method.name}: {error}") from error
    return trainer, start


class _Recorder:
    """Takes an epoch's row to the checkpoint, the history and the runner, in this order."""

    def __init__(self, writer: CellWriter, trainer: Trainer, past: Checkpoint, emit: Emit, begun: float) -> None:
        self._writer, self._trainer, self._past, self._emit = writer, trainer, past, emit
        self._begun, self._earlier, self._pace = begun, past.seconds, Pace()

    def __call__(self, row: Row) -> None:
        now, rows, epoch = time.perf_counter(), [*self._writer.rows, row], epoch_of(row)
        seconds = self._earlier + now - self._begun
        self._past = replace(self._past, epoch=epoch, trainer=self._trainer.state(), rows=rows, seconds=seconds)
        saved = epoch == self._trainer.epochs or self._pace.due(now)
        if saved:
            self._save()
        self._writer.append(row)
        try:
            self._emit(Epoch(epoch, self._trainer.epochs, row))
        except SystemExit:  # the cell is to end after this epoch
            if not saved:
                self._save()
            raise

    def _save(self) -> None:
        begun = time.perf_counter()
        with self._writer.writing():
            checkpoint.save(self._writer.folder, self._past)
        self._pace.wrote(begun, time.perf_counter())

    def sums(self, environment: Environment, cell: Cell) -> dict[str, object]:
        """What comes out over all attempts at the cell."""
        rows, past = self._writer.rows, self._past
        return {
            "selections": selections(rows),
            "timing": timing(rows, past.resumed),
            "environment": provenance.of_all_attempts(environment, past.places, cell.hash),
            "resumed": past.resumed,
            "total_s": self._earlier,
        }


def _made_by(cell: Cell, environment: Environment, dataset: Dataset, start: str) -> dict[str, str]:
    """What the numbers depend on, which all attempts at a cell must share."""
    given = {"cell": cell.hash, "code": provenance.code_digest()}
    if environment.gpus_per_cell:  # several GPUs add up in another order than one
        given["GPUs"] = str(environment.gpus_per_cell)
    return given | provenance.kind_of_machine(environment) | {"data": dataset.fingerprint, "initial weights": start}


def _resume(made_by: dict[str, str], environment: Environment, writer: CellWriter, trainer: Trainer) -> Checkpoint:
    """Bring writer and trainer to where the last attempt ended, or to the beginning."""
    past = checkpoint.load(writer.folder, made_by, writer.log)
    if past.rows:
        try:
            trainer.restore(past.trainer)
        except Exception as error:
            checkpoint.clear(writer.folder)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            what = f"the method's state cannot be restored ({reason}); its checkpoint was removed"
            hint = "--retry failed begins the cell again; see docs/extend/index.md on what a method keeps"
            raise UserError(what, hint=hint) from error
        writer.resume(past.rows)
        past.resumed.append(past.epoch)
    else:
        writer.restart()
    past.places.append(provenance.machine_and_load(environment))
    return past


# What CUDA and its libraries say where memory of their own cannot be had; torch raises a plain RuntimeError of it.
NO_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
# What torch says where loader processes find too little shared memory: a container has 64 MiB of it by default.
NO_SHARED_MEMORY = ("out of shared memory", "unable to allocate shared memory", "unable to write to file </torch_")


def failure_of(error: Exception) -> Failure:
    """What a result says of an error."""
    if isinstance(error, RankError):
        return error.failure
    kinds = {DivergedError: "diverged", UserError: "usage", StorageError: "storage", LostClaimError: "claim"}
    kind, name = kinds.get(type(error), "error"), type(error).__name__
    message = str(error).splitlines()[0] if str(error) else name
    if isinstance(error, torch.OutOfMemoryError) or any(said in message for said in NO_MEMORY):
        kind = "memory"
        message += "; what helps: nothing else on this GPU, a smaller --per-gpu, --set training.autocast=bfloat16, "
        message += "--set training.micro_batch_size, --gpus-per-cell"
    elif any(said in message for said in NO_SHARED_MEMORY):
        message += "; what helps: --data-workers 0, or a larger /dev/shm"
    return failure(kind, name, message)


def _dataset(cell: Cell, dataset: Dataset, train: Split) -> Data:
    """What was trained and tested on; classes held out for validation count as neither."""
    queries = dataset.test.queries
    roles = {} if queries is None else {"query_images": int(queries.sum())}
    return Data.model_validate(cell.dataset.identity() | roles | {
        "skipped": list(cell.dataset.skipped),
        "fingerprint": dataset.fingerprint,
        "train_images": len(train.labels),
        "train_classes": len(train.class_names),
        "held_out_images": len(dataset.train.labels) - len(train.labels),
        "held_out_classes": len(dataset.train.class_names) - len(train.class_names),
        "test_images": len(dataset.test.labels),
        "test_classes": len(dataset.test.class_names),
    })  # fmt: skip


def _keep(keep: tuple[str, ...], writer: CellWriter, networks: list[EmbeddingModel], test: Evaluator) -> None:
    """Save what `--keep` asks for: final weights, and the test embeddings, of several networks the first's."""
    if "weights" in keep:
        with writer.writing():
            write_atomically(writer.folder / "weights.safetensors", save(weights_of(networks)))
    if "embeddings" in keep:
        content = test.embeddings_file(networks[0])
        with writer.writing():
            write_atomically(writer.folder / "embeddings.safetensors", content)
