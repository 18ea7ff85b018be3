import time

import pytest
import torch

from dmlbench.training.device import PHASES, PhaseClock

CPU = torch.device("cpu")


@pytest.fixture
def ticks(monkeypatch):
    """Time that passes only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pass_time(seconds):
        now[0] += seconds

    return pass_time


def test_phases_add_up_over_an_epoch(ticks):
    clock = PhaseClock(CPU)
    with clock.phase("train"):
        for _ in range(3):
            with clock.phase("forward"):
                ticks(2)
            ticks(0.5)
            with clock.phase("backward"):
                ticks(4)
    assert clock.seconds() == {"forward": 6.0, "backward": 12.0, "train": 19.5}


def test_reading_starts_anew(ticks):
    clock = PhaseClock(CPU)
    with clock.phase("loss"):
        ticks(1)
    assert clock.seconds() == {"loss": 1.0}
    assert clock.seconds() == {}


def test_a_phase_that_fails_is_timed(ticks):
    clock = PhaseClock(CPU)

    def fail():
        with clock.phase("loss"):
            ticks(3)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert clock.seconds() == {"loss": 3.0}


@pytest.mark.parametrize("name", ["ms", "ms+obdsd"])
def test_phases_of_real_steps_add_up_to_about_the_total(name, make_trainer, train):
    trainer = make_trainer(name)
    train(trainer, range(1))
    row = train(trainer, range(1, 2))[0]
    phases = {phase: row[f"time/{phase}_s"] for phase in PHASES}
    assert 0.6 * row["time/train_s"] < sum(phases.values()) <= row["time/train_s"]
    working = sum(seconds for phase, seconds in phases.items() if phase != "data")
    assert row["time/step_ms"] == pytest.approx(1000 * working / 3)  # a slow loader is no cost of a method
    distilled = {"teacher", "distillation"}
    assert all((phases[phase] > 0) == ("+" in name or phase not in distilled) for phase in PHASES)
