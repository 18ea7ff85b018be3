import pytest
import torch

from dmlbench.overhead.timing import BATCHES, SYNTHETIC_SET, measure_steps, peak_bytes, synthetic_batches
from dmlbench.training.device import PHASES

CPU = torch.device("cpu")


def test_synthetic_batches_have_the_protocols_shape(make_protocol):
    batches = synthetic_batches(make_protocol(), CPU)
    assert len(batches) == BATCHES
    for batch in batches:
        assert batch.images.shape == (8, 1, 16, 16)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.labels[::2], batch.labels[1::2])
        assert batch.labels.max() < SYNTHETIC_SET.classes
        assert batch.indices.max() < SYNTHETIC_SET.images


@pytest.fixture
def measured(make_trainer, batch, monkeypatch):
    monkeypatch.setattr("dmlbench.overhead.timing.TURN_SECONDS", 0.001)
    trainers = {name: make_trainer(name) for name in ("ms", "ms+psd", "ms+obdsd-mem")}
    return measure_steps(trainers, [batch, batch], rounds=6, warm_up=1)


def test_every_method_is_measured_in_every_round(measured):
    for cost in measured.values():
        assert len(cost.step_ms) == 6
        assert all(len(values) == 6 for values in cost.phases_ms.values())
        assert set(cost.phases_ms) <= set(PHASES)
        for turn, step in enumerate(cost.step_ms):
            assert 0 < sum(values[turn] for values in cost.phases_ms.values()) <= step


def test_a_teacher_has_its_full_say(measured):
    assert "teacher" not in measured["ms"].phases_ms
    for name in ("ms+psd", "ms+obdsd-mem"):
        assert min(measured[name].phases_ms["teacher"]) > 0
        assert min(measured[name].phases_ms["distillation"]) > 0


def test_arithmetic_is_counted(measured):
    base, distilled, remembered = (measured[name].gflop for name in ("ms", "ms+psd", "ms+obdsd-mem"))
    assert 1.3 < distilled / base < 1.5  # a forward pass more: a third, and more where nothing learns the images
    assert 1.0 < remembered / base < 1.1


def test_a_teachers_weights_and_activations_take_memory(measured):
    assert measured["ms+psd"].peak_mb > measured["ms"].peak_mb


def test_memory_by_hand(make_trainer, batch, mining):
    """Of a step that keeps a known amount at its height."""
    trainer = make_trainer("ms")
    trainer.step(batch, 0, mining)
    trainer.networks[0].optimizer.zero_grad()
    parts = [*trainer.model.state_dict().values(), *trainer.networks[0].criterion.state_dict().values()]
    states = [value for state in trainer.networks[0].optimizer.state.values() for value in state.values()]
    kept = sum(tensor.nbytes for tensor in [*parts, *states])

    def step():
        large = torch.empty(1_000_000)
        torch.empty(2_000_000)
        del large
        torch.empty(1_500_000)

    assert peak_bytes(trainer, step) == pytest.approx(kept + 12_000_000, abs=10_000)


def test_gradients_are_gone_before_the_forward_pass(make_trainer, batch, mining):
    trainer, alive = make_trainer("ms"), []
    trainer.model.head.register_forward_hook(lambda head, *_: alive.append(head.weight.grad is not None))
    trainer.step(batch, 0, mining)
    trainer.step(batch, 0, mining)
    assert alive == [False, False]
    assert trainer.model.head.weight.grad is not None
