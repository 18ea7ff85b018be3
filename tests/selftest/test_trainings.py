"""Trainings that must agree: the checks see one that does not."""

import os
from contextlib import nullcontext
from functools import wraps

import pytest
import torch

from dmlbench.losses import TripletLoss
from dmlbench.models.model import EmbeddingModel
from dmlbench.results.events import Finished, failure
from dmlbench.selftest import trainings
from dmlbench.selftest.conditions import CPU, DRAWN, SMALL, Conditions, size_of, trainer_of
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.registry import Registry
from dmlbench.training import checkpoint, trainer
from dmlbench.training.trainer import TrainableNetwork, Trainer
from tests.selftest.conftest import broken

DIFFER, TRAINED = "triplet, conv4-64: numbers that differ", "triplet, conv4-64: weights that were trained"


@pytest.fixture
def few(monkeypatch):
    """One method and two steps, so that a training takes a second."""
    monkeypatch.setattr(trainings, "REPEATED", ("triplet",))
    monkeypatch.setattr(trainings, "STEPS", 2)


@pytest.mark.usefixtures("few")
def test_a_training_that_nothing_seeds(check, monkeypatch):
    assert not broken(check("repeat"))
    forward = TripletLoss.forward

    @wraps(forward)
    def noisy(self, *args, **kwargs):
        return forward(self, *args, **kwargs) * (1 + 1e-6 * int.from_bytes(os.urandom(2), "big"))

    monkeypatch.setattr(TripletLoss, "forward", noisy)
    assert broken(check("repeat")) == {DIFFER}


@pytest.mark.usefixtures("few")
def test_a_training_that_trains_nothing(check, monkeypatch):
    monkeypatch.setattr(TrainableNetwork, "end_step", lambda *_: None)
    assert broken(check("repeat")) == {TRAINED}


@pytest.mark.slow
def test_a_cell_that_is_resumed(check):
    assert not broken(check("resume"))


@pytest.mark.parametrize("name", ["whole", "killed"])
def test_a_cell_that_fails(check, monkeypatch, name):
    error = failure("error", "RuntimeError", "no such kernel")
    run = trainings.run_cell

    def fail(cell, folder, options, emit):
        if name in folder.parts:
            emit(Finished(error))
        else:
            run(cell, folder, options, emit)

    monkeypatch.setattr(trainings, "_kill", lambda *_: None)
    monkeypatch.setattr(trainings, "run_cell", fail)
    record = check("resume")
    assert (record.status, record.figures) == ("fail", ())
    assert record.reason == "RuntimeError: triplet+obdsd on glyphs, seed 0: no such kernel"


@pytest.mark.slow
def test_a_resumed_cell_that_forgets(check, monkeypatch):
    restore = Trainer.restore

    def forget(self, state):
        begun = self.networks[0].optimizer.state_dict()
        restore(self, state)
        self.networks[0].optimizer.load_state_dict(begun)

    monkeypatch.setattr(Trainer, "restore", forget)
    assert broken(check("resume")) == {"numbers of the history that differ", "weights that differ"}


@pytest.mark.slow
def test_a_cell_that_begins_again_in_place_of_resuming(check, monkeypatch):
    monkeypatch.setattr(checkpoint, "load", lambda _, made_by, __: checkpoint.Checkpoint(dict(made_by)))
    assert broken(check("resume")) == {"times it was resumed"}


def test_a_cpu_has_nothing_to_wait_for(check):
    record = check("waits")
    assert record.status == "skipped"
    assert "queue" in record.reason


@pytest.fixture
def debug_mode(monkeypatch):
    """What torch's debug mode is set to; here it does nothing, for there is no GPU."""
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    return modes


def first_wait() -> str:
    split = trainings.glyphs()[0]
    protocol = load_protocol(SMALL, DRAWN, {"training": {"epochs": 2, "steps_per_epoch": 2}})
    return trainings.first_wait(trainer_of("triplet", protocol, size_of(split), CPU), protocol, split)


@pytest.mark.usefixtures("check")
def test_a_step_that_waits(monkeypatch, debug_mode):
    assert not first_wait()
    assert debug_mode == [0, "error", 0, "error", 0, 0]
    forward = TripletLoss.forward

    @wraps(forward)
    def waiting(self, *args, **kwargs):
        if debug_mode[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nC++ frames")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(TripletLoss, "forward", waiting)
    assert first_wait() == "called a synchronizing CUDA operation"
    assert debug_mode[-1] == 0


def test_every_loss_and_modifier_is_among_the_steps():
    names, registry = trainings.every_part(), Registry()
    assert len(names) == len(set(names))
    assert {name.partition("+")[0] for name in names} == {*registry.bases()}
    assert {name.partition("+")[2] for name in names} == {"", *registry.modifiers()}


@pytest.mark.usefixtures("check")
@pytest.mark.parametrize(("seconds", "others"), [(0.0, 0), (60.0, 2)])
def test_the_steps_of_more_methods_where_there_is_time(monkeypatch, tmp_path, seconds, others):
    monkeypatch.setattr(Conditions, "on_cuda", True)
    monkeypatch.setattr(trainings, "every_part", lambda: [*trainings.WAITING, "ms", "triplet"])
    monkeypatch.setattr(trainings, "first_wait", lambda trainer, *_: "waits" if trainer.modifier is None else "")
    outcome = trainings.waits(Conditions(CPU, seconds, tmp_path))
    assert len(outcome.figures) == len(trainings.WAITING) + others
    assert sum(not figure.holds for figure in outcome.figures) == others
    assert outcome.note == ("waits" if others else f"{len(trainings.WAITING)} of {len(trainings.WAITING) + 2} methods")


def test_bfloat16_that_is_none(check, monkeypatch):
    assert not broken(check("bfloat16"))
    for module in (trainings, trainer):
        monkeypatch.setattr(module, "autocast", lambda *_: nullcontext())
    assert broken(check("bfloat16")) == {"embeddings that differ"}


def test_bfloat16_that_is_far_off(check, monkeypatch):
    embed = EmbeddingModel.embed

    def off(self, features):
        found = embed(self, features)
        return found.roll(1, dims=0) if torch.is_autocast_enabled("cpu") else found

    monkeypatch.setattr(EmbeddingModel, "embed", off)
    assert trainings.ERROR in broken(check("bfloat16"))
