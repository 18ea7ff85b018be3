"""An epoch of training, and the rows of the history."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dmlbench.data.loader import Batch, TrainingBatches
from dmlbench.errors import DivergedError
from dmlbench.results.history import Row
from dmlbench.seeding import stream_seed
from dmlbench.specs.protocol_spec import EvaluationSpec
from dmlbench.training.device import PHASES
from dmlbench.training.evaluator import Evaluator, timed
from dmlbench.training.trainer import Trainer


def train_epoch(trainer: Trainer, batches: TrainingBatches, epoch: int, seed: int, device: torch.device) -> Row:
    """Train one epoch (counted from 0) and return its losses and phase times.

    Losses stay on the device until the epoch ends: reading one a step would stop the device each time.

    Raises:
        DivergedError: where a step's loss was not finite.
    """
    generator = torch.Generator(device).manual_seed(stream_seed(seed, epoch, "mining"))
    loader = _timed_batches(trainer, batches, epoch)
    ranking, distilled = [], []
    rate = trainer.networks[0].optimizer.param_groups[0]["lr"]
    trainer.train()
    with trainer.clock.phase("train"):
        for batch in loader:
            losses = trainer.step(batch, epoch, generator)
            ranking.append(losses[0])
            distilled.append(losses[1])
    seconds = trainer.clock.seconds()
    row = _losses(torch.stack(ranking), torch.stack(distilled), epoch)
    trainer.end_epoch()
    row |= {"train/distillation_weight": trainer.modifier_weight(epoch), "train/learning_rate": rate}
    row |= {f"time/{phase}_s": seconds.get(phase, 0.0) for phase in PHASES}
    # Without the wait for data: a loader that keeps a GPU waiting would hide what a method costs.
    step = sum(seconds.get(phase, 0.0) for phase in PHASES if phase != "data") / batches.steps
    return row | {"time/train_s": seconds["train"], "time/step_ms": 1000 * step}


def evaluate_epoch(
    epoch: int,
    epochs: int,
    evaluation: EvaluationSpec,
    networks: Sequence[nn.Module],
    evaluators: dict[str, Evaluator],
) -> Row:
    """Metrics of an epoch counted from 1 (0: untrained), as `test/...` and `validation/...`; empty where not due.

    Several networks have metrics of their own, and the mean: see `Evaluator.measure`.

    Raises:
        DivergedError: where a metric or an embedding is not finite; it names the split, the metric and the epoch.
    """
    last = epoch in (0, epochs)
    if not last and epoch % evaluation.every:
        return {"time/evaluation_s": 0.0}
    row: Row = {}
    spent = 0.0
    for split, evaluator in evaluators.items():
        try:
            metrics, seconds = timed(evaluator, networks, clustering=last or evaluation.clustering == "every")
        except DivergedError as error:
            raise DivergedError(f"{split}: {error} at epoch {epoch}") from error
        row |= {f"{split}/{name}": value for name, value in metrics.items()}
        spent += seconds
    return row | {"time/evaluation_s": spent}


def _timed_batches(trainer: Trainer, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
    iterator = iter(batches.epoch(epoch))
    for _ in range(batches.steps):
        with trainer.clock.phase("data"):
            batch = next(iterator)
        yield batch


def _losses(ranking: Tensor, distilled: Tensor, epoch: int) -> Row:
    total = (ranking + distilled).double().cpu()
    bad = (~total.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0]) + 1
        raise DivergedError(f"loss is {float(total[step - 1])} at epoch {epoch + 1}, step {step}")
    return {
        "train/loss": math.fsum(total.tolist()) / len(total),
        "train/ranking_loss": float(ranking.double().mean()),
        "train/distillation_loss": float(distilled.double().mean()),
    }
