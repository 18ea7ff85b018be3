import copy

import pytest
import torch

from dmlbench.modifiers import Modifier, distillation_loss, psd_targets

BASES = ("contrastive", "triplet", "margin", "ms", "proxyanchor")


def without_timings(rows):
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def state(trainer) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("model", "criterion")
        for name, tensor in getattr(trainer.networks[0], part).state_dict().items()
    }


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("base", BASES)
def test_weight_zero_is_the_base_bit_for_bit(base, make_trainer, train):
    base_trainer = make_trainer(base)
    rows = train(base_trainer, range(3))
    for modifier in ("psd", "obdsd", "psd-mem", "obdsd-mem"):
        trainer = make_trainer(f"{base}+{modifier}", 0)
        assert without_timings(train(trainer, range(3))) == without_timings(rows)
        assert same(state(trainer), state(base_trainer))
        assert trainer.modifier.teacher is None


@pytest.mark.parametrize("name", ["ms+psd", "ms+obdsd", "margin+psd", "ms+obdsd-mem"])
def test_a_distilled_method_leaves_its_base_in_the_second_epoch(name, make_trainer, train):
    base, distilled = make_trainer(name.partition("+")[0]), make_trainer(name, 75)
    assert without_timings(train(base, range(1))) == without_timings(train(distilled, range(1)))
    assert same(state(base), state(distilled))
    plain, pulled = train(base, range(1, 2))[0], train(distilled, range(1, 2))[0]
    assert plain["train/distillation_loss"] == 0.0
    assert pulled["train/distillation_loss"] > 0.0
    assert pulled["train/loss"] == pytest.approx(pulled["train/ranking_loss"] + pulled["train/distillation_loss"])
    assert not same(state(base), state(distilled))


def test_one_seed_one_training(make_trainer, train):
    one, again, other = make_trainer("margin+obdsd"), make_trainer("margin+obdsd"), make_trainer("margin+obdsd", seed=1)
    rows = train(one, range(3))
    assert without_timings(rows) == without_timings(train(again, range(3)))
    assert same(state(one), state(again))
    assert without_timings(rows) != without_timings(train(other, range(3), seed=1))


def test_a_base_method_never_has_a_teacher(make_trainer, train):
    trainer = make_trainer("ms")
    rows = train(trainer, range(2))
    assert trainer.modifier is None
    assert [row["time/teacher_s"] for row in rows] == [0.0, 0.0]
    assert [row["train/distillation_weight"] for row in rows] == [0.0, 0.0]


def test_the_teacher_comes_after_the_first_epoch(make_trainer, train):
    trainer = make_trainer("ms+psd", 75)
    assert trainer.modifier.teacher.network is None
    first = train(trainer, range(1))[0]
    assert first["train/distillation_loss"] == first["time/distillation_s"] == 0.0
    assert trainer.modifier.teacher.network is not None
    second = train(trainer, range(1, 2))[0]
    assert second["time/teacher_s"] > 0
    assert second["time/distillation_s"] > 0


def test_the_teacher_is_the_student_at_the_end_of_the_epoch_before(make_trainer, train, batch, mining):
    trainer = make_trainer("ms+psd", 75)
    for epoch in range(3):
        train(trainer, range(epoch, epoch + 1))
        trainer.model.eval()
        with torch.no_grad():
            student = trainer.model(batch.images)
            copied = copy.deepcopy(trainer.modifier.teacher.network).eval()
            torch.testing.assert_close(copied(batch.images), student, rtol=0, atol=1e-6)
        taught = {name: tensor.clone() for name, tensor in trainer.modifier.teacher.network.named_parameters()}
        trainer.model.train()
        trainer.step(batch, epoch + 1, mining)
        assert same(dict(trainer.modifier.teacher.network.named_parameters()), taught)  # by the optimiser
        trainer.model.eval()
        with torch.no_grad():
            assert (trainer.model(batch.images) - student).abs().max() > 1e-4


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teacher_is_a_copy_without_gradients(mode, make_trainer, train, batch, mining):
    trainer = make_trainer("ms+obdsd", 75, settings={"teacher_mode": mode})
    train(trainer, range(1))
    trainer.model.train()
    trainer.step(batch, 1, mining)
    assert {module.training for module in trainer.modifier.teacher.network.modules()} == {mode == "train"}
    assert trainer.model.training
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())
    assert not any(parameter.requires_grad for parameter in trainer.modifier.teacher.network.parameters())
    assert all(parameter.grad is None for parameter in trainer.modifier.teacher.network.parameters())
    places = {parameter.data_ptr() for parameter in trainer.model.parameters()}
    assert not places & {parameter.data_ptr() for parameter in trainer.modifier.teacher.network.parameters()}
    optimised = {id(p) for group in trainer.networks[0].optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in trainer.modifier.teacher.network.parameters()}


def test_the_teacher_sees_the_same_batch(make_trainer, train, batch, mining):
    trainer = make_trainer("ms+psd", 75)
    train(trainer, range(1))
    images, labels, *_ = batch
    trainer.model.eval()  # a forward pass below must not move the statistics
    with torch.no_grad():
        embeddings = trainer.model(images)
        ranking = trainer.networks[0].criterion(embeddings, labels)
        targets = psd_targets(trainer.modifier.teacher.network(images), 1.0)
        expected = 75 * 2 / 4 * distillation_loss(embeddings, targets, 1.0)
    shown = trainer.step(batch, 2, mining)
    assert float(shown[0]) == float(ranking)
    assert float(shown[1]) == float(expected)
    assert not any(loss.requires_grad for loss in shown)


def test_the_step_descends_both_losses(make_trainer, train, batch, mining):
    """The gradient of a step is that of ranking + weight x distillation, written out."""
    trainer = make_trainer("ms+psd", 75)
    train(trainer, range(1))
    with torch.no_grad():  # away from the teacher, where the distillation's gradient is not 0
        trainer.model.head.weight.add_(0.3)
    images, labels, *_ = batch
    trainer.model.eval()
    embeddings = trainer.model(images)
    loss = trainer.networks[0].criterion(embeddings, labels)
    loss = loss + 75 * 3 / 4 * distillation_loss(
        embeddings, psd_targets(trainer.modifier.teacher.network(images), 1.0), 1.0
    )
    expected = torch.autograd.grad(loss, list(trainer.model.parameters()))
    trainer.step(batch, 3, mining)
    for parameter, gradient in zip(trainer.model.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_the_weight_grows_with_the_epoch_and_never_reaches_lambda(make_trainer, train):
    trainer = make_trainer("ms+psd", 60, epochs=5)
    assert [trainer.modifier_weight(epoch) for epoch in range(5)] == [0, 12, 24, 36, 48]
    rows = train(trainer, range(5))
    assert [row["train/distillation_weight"] for row in rows] == [0, 12, 24, 36, 48]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")  # float16 skips steps until its scale fits
@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", [*BASES, "ms+psd", "margin+obdsd", "ms+psd-mem"])
def test_steps_in_half_precision_stay_finite(name, autocast, make_trainer, train):
    trainer = make_trainer(name, *([75] if "+" in name else []), autocast=autocast)
    assert trainer.scaler.is_enabled() == (autocast == "float16")
    before = state(trainer)
    rows = train(trainer, range(4))
    after = state(trainer)
    assert all(torch.isfinite(torch.tensor(row["train/loss"])) for row in rows)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not torch.equal(after["model.head.weight"], before["model.head.weight"])
    assert after["model.head.weight"].dtype == torch.float32


def test_half_precision_is_another_computation(make_trainer, batch, mining):
    """Otherwise the test above would test nothing."""
    losses = {
        autocast: float(make_trainer("ms", autocast=autocast).step(batch, 0, mining)[0])
        for autocast in ("none", "bfloat16", "float16")
    }
    assert len(set(losses.values())) == 3
    assert losses["bfloat16"] == pytest.approx(losses["none"], rel=0.1)
    assert losses["float16"] == pytest.approx(losses["none"], rel=0.02)


@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_teacher_and_student_compute_in_the_same_precision(autocast, make_trainer, batch, mining):
    trainer = make_trainer("ms+psd", 75, autocast=autocast)
    trainer.step(batch, 0, mining)
    trainer.end_epoch()
    types = {}
    for name, network in {"model": trainer.model, "teacher": trainer.modifier.teacher.network}.items():
        head = network.head
        head.register_forward_hook(lambda _module, _input, output, name=name: types.update({name: output.dtype}))
    trainer.step(batch, 1, mining)
    expected = torch.bfloat16 if autocast == "bfloat16" else torch.float32
    assert types == {"model": expected, "teacher": expected}


def test_embeddings_that_a_loss_masks_away_still_show(make_trainer, batch, mining):
    trainer = make_trainer("ms")
    trainer.networks[0].criterion.forward = lambda embeddings, labels, generator: embeddings.nan_to_num().sum() * 0
    with torch.no_grad():
        trainer.model.head.weight.fill_(float("nan"))
    ranking, _ = trainer.step(batch, 0, mining)
    assert ranking.isnan()


class Noisy(Modifier):
    """Draws from torch's global stream in both of its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = []

    def loss(self, outputs, context):
        self.drawn.append(float(torch.rand(())))
        return [0 * output.ranking for output in outputs]

    def after_step(self, outputs, context):
        self.drawn.append(float(torch.rand(())))


def test_a_modifiers_draws_differ_and_leave_the_bases_stream(make_trainer, train):
    trainer, plain = make_trainer("ms"), make_trainer("ms")
    trainer.modifier = Noisy()
    states = []
    for own in (plain, trainer):
        torch.manual_seed(1)
        train(own, range(1))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert len(trainer.modifier.drawn) == len(set(trainer.modifier.drawn)) > 2
