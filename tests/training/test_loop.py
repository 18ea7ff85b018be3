import pytest
import torch

from dmlbench.errors import DivergedError
from dmlbench.specs.protocol_spec import EvaluationSpec
from dmlbench.training.device import PHASES
from dmlbench.training.loop import evaluate_epoch


@pytest.fixture
def model():
    return torch.nn.Identity()


class Recorder:
    """Stands in for an evaluator and records with which clustering it was asked."""

    def __init__(self):
        self.asked = []

    def measure(self, _model, *, clustering):
        self.asked.append(clustering)
        return {"recall_at_1": 0.5} | ({"nmi": 0.25} if clustering else {})


def poison(trainer, at: int, value: float) -> None:
    """Add `value` to the ranking loss at the step `at`, counted over all epochs from 1."""
    taken = []
    forward = trainer.networks[0].criterion.forward

    def poisoned(embeddings, labels, generator):
        taken.append(1)
        loss = forward(embeddings, labels, generator=generator)
        return loss + value if len(taken) == at else loss

    trainer.networks[0].criterion.forward = poisoned


def test_an_epochs_row(make_trainer, train):
    row = train(make_trainer("ms+psd", 75), range(2))[1]
    assert [key for key in row if not key.startswith("time/")] == [
        "train/loss",
        "train/ranking_loss",
        "train/distillation_loss",
        "train/distillation_weight",
        "train/learning_rate",
    ]
    assert [key for key in row if key.startswith("time/")] == [
        *(f"time/{phase}_s" for phase in PHASES),
        "time/train_s",
        "time/step_ms",
    ]
    assert all(isinstance(value, float) for value in row.values())


def test_the_loss_falls(make_trainer, train):
    rows = train(make_trainer("ms", epochs=15), range(15))
    assert rows[-1]["train/loss"] < 0.9 * rows[0]["train/loss"]


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (1, float("nan"), "loss is nan at epoch 1, step 1"),
        (3, float("inf"), "loss is inf at epoch 1, step 3"),
        (5, float("nan"), "loss is nan at epoch 2, step 2"),  # three steps an epoch
        (4, -float("inf"), "loss is -inf at epoch 2, step 1"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_training_where_it_happened(make_trainer, train, at, value, message):
    trainer = make_trainer("ms", weight_decay=0.0)
    poison(trainer, at, value)
    with pytest.raises(DivergedError, match=f"^{message}$"):
        train(trainer, range(2))


def test_a_diverged_epoch_makes_no_teacher(make_trainer, train):
    trainer = make_trainer("ms+psd", 75)
    poison(trainer, 2, float("nan"))
    with pytest.raises(DivergedError):
        train(trainer, range(1))
    assert trainer.modifier.teacher.network is None


@pytest.mark.parametrize(
    ("every", "epochs", "measured"),
    [
        (1, 4, [0, 1, 2, 3, 4]),
        (2, 4, [0, 2, 4]),
        (2, 5, [0, 2, 4, 5]),
        (3, 4, [0, 3, 4]),
        (9, 4, [0, 4]),
    ],
)
def test_every_so_many_epochs_and_the_last(model, every, epochs, measured):
    evaluator, evaluation = Recorder(), EvaluationSpec(every=every)
    rows = [evaluate_epoch(epoch, epochs, evaluation, model, {"test": evaluator}) for epoch in range(epochs + 1)]
    assert [epoch for epoch, row in enumerate(rows) if "test/recall_at_1" in row] == measured
    assert all(rows[epoch] == {"time/evaluation_s": 0.0} for epoch in range(epochs + 1) if epoch not in measured)


@pytest.mark.parametrize(("clustering", "asked"), [("last", [True, False, False, True]), ("every", [True] * 4)])
def test_clustering_at_the_ends_or_every_time(model, clustering, asked):
    evaluator, evaluation = Recorder(), EvaluationSpec(clustering=clustering)
    rows = [evaluate_epoch(epoch, 3, evaluation, model, {"test": evaluator}) for epoch in range(4)]
    assert evaluator.asked == asked
    assert ["test/nmi" in row for row in rows] == asked


def test_every_split_has_its_own_columns(model):
    evaluators = {"test": Recorder(), "validation": Recorder()}
    row = evaluate_epoch(1, 2, EvaluationSpec(), model, evaluators)
    assert list(row) == ["test/recall_at_1", "validation/recall_at_1", "time/evaluation_s"]
    assert row["time/evaluation_s"] > 0
