"""Memory and overhead: the checks see memory that grows, a teacher that costs too much and one that never ran."""

from itertools import count

import pytest
import torch

from dmlbench.selftest import costs
from dmlbench.selftest.conditions import Conditions
from tests.fake_measurements import make_measurement
from tests.selftest.conftest import broken


def test_memory_that_grows_from_epoch_to_epoch(check, monkeypatch):
    monkeypatch.setattr(costs, "STEPS", 1)
    record = check("memory")
    # The memory of a process that ran a thousand tests may grow by itself; tests/e2e/test_selftest.py has a fresh one.
    assert broken(record) <= {costs.ADDED}
    assert {figure.name for figure in record.figures} >= {costs.ADDED, "height of a step"}
    leaked, train_epoch = [], costs.train_epoch

    def leaking(*args):
        leaked.append(torch.ones(2**24))  # 64 MiB
        return train_epoch(*args)

    monkeypatch.setattr(costs, "train_epoch", leaking)
    assert broken(check("memory")) == {costs.ADDED}


@pytest.mark.parametrize(("each", "failed"), [(60.0, set()), (70.0, {costs.ADDED})])
def test_the_bound_on_a_gpu(check, monkeypatch, each, failed):
    monkeypatch.setattr(costs, "STEPS", 1)
    monkeypatch.setattr(costs, "GROWTH", {"cpu": costs.GROWTH["cuda"]})
    held = count(1000.0, each)
    monkeypatch.setattr(costs, "_held", lambda _: next(held))
    assert broken(check("memory")) == failed


def test_a_system_that_does_not_say_how_much_memory_is_used(check, monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "STEPS", 1)
    monkeypatch.setattr(costs, "STATUS", tmp_path / "missing")
    assert check("memory").status == "skipped"


@pytest.mark.parametrize(("ratio", "failed"), [(1.3, set()), (2.2, {"ratio of the steps"})])
def test_the_ratio_has_a_bound(check, monkeypatch, ratio, failed):
    asked = []

    def measured(plan, device, effort, *_):
        asked.append((effort.processes, device, [method.name for method in plan.methods]))
        return make_measurement({"ms": 1.0, "ms+psd": ratio}, processes=effort.processes, rounds=effort.rounds)

    monkeypatch.setattr(costs, "measure", measured)
    record = check("overhead", 60.0)
    assert broken(record) == failed
    assert asked == [(2, "cpu", ["ms", "ms+psd"])]
    figures = {figure.name: figure.value for figure in record.figures}
    assert figures["95% interval from"] < figures["ratio of the steps"] < figures["95% interval to"]
    assert "geometric means of 2 processes" in record.note


def test_a_teacher_that_never_ran(check, monkeypatch):
    measurement = make_measurement({"ms": 1.0, "ms+psd": 1.0})
    measurement.methods["ms+psd"].phases_ms.pop("teacher")
    monkeypatch.setattr(costs, "measure", lambda *_: measurement)
    assert broken(check("overhead")) == {"added by teacher and distillation, over the base's step"}


def test_more_time_measures_more_processes_and_five_at_most(check, monkeypatch):
    asked = []

    def measured(_, __, effort, *___):
        asked.append(effort.processes)
        return make_measurement(processes=effort.processes, rounds=effort.rounds)

    monkeypatch.setattr(costs, "measure", measured)
    for seconds in (0.0, 120.0, 3600.0):
        check("overhead", seconds)
    assert asked == [1, 4, 5]


def test_on_a_gpu_too_small_for_a_step_nothing_is_measured(check, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Conditions, "on_cuda", True)
    monkeypatch.setattr(costs, "trainer_of", too_large)
    monkeypatch.setattr(costs, "measure", lambda *_: pytest.fail("measured"))
    record = check("overhead")
    assert record.status == "skipped"
    assert record.reason == "a step of resnet50-128 with 112 images does not fit into the free memory of cpu"


def test_a_step_that_fits_is_measured(check, monkeypatch):
    monkeypatch.setattr(Conditions, "on_cuda", True)
    monkeypatch.setattr(costs, "LARGE", costs.SMALL)
    monkeypatch.setattr(costs, "measure", lambda *_: make_measurement())
    assert not broken(check("overhead"))
