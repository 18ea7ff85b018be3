import copy

import pytest
import torch

from dmlbench.modifiers import distillation_loss, psd_targets

BASES = ("contrastive", "triplet", "margin", "ms", "proxyanchor")


def without_timings(rows):
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def state(learner) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("model", "criterion")
        for name, tensor in getattr(learner.members[0], part).state_dict().items()
    }


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("base", BASES)
def test_weight_zero_is_the_base_bit_for_bit(base, make_learner, train):
    base_learner = make_learner(base)
    rows = train(base_learner, range(3))
    for modifier in ("psd", "obdsd", "psd-mem", "obdsd-mem"):
        learner = make_learner(f"{base}+{modifier}", 0)
        assert without_timings(train(learner, range(3))) == without_timings(rows)
        assert same(state(learner), state(base_learner))
        assert learner.modifier is None


@pytest.mark.parametrize("name", ["ms+psd", "ms+obdsd", "margin+psd", "ms+obdsd-mem"])
def test_a_distilled_method_leaves_its_base_in_the_second_epoch(name, make_learner, train):
    base, distilled = make_learner(name.partition("+")[0]), make_learner(name, 75)
    assert without_timings(train(base, range(1))) == without_timings(train(distilled, range(1)))
    assert same(state(base), state(distilled))
    plain, pulled = train(base, range(1, 2))[0], train(distilled, range(1, 2))[0]
    assert plain["train/distillation_loss"] == 0.0
    assert pulled["train/distillation_loss"] > 0.0
    assert pulled["train/loss"] == pytest.approx(pulled["train/ranking_loss"] + pulled["train/distillation_loss"])
    assert not same(state(base), state(distilled))


def test_one_seed_one_training(make_learner, train):
    one, again, other = make_learner("margin+obdsd"), make_learner("margin+obdsd"), make_learner("margin+obdsd", seed=1)
    rows = train(one, range(3))
    assert without_timings(rows) == without_timings(train(again, range(3)))
    assert same(state(one), state(again))
    assert without_timings(rows) != without_timings(train(other, range(3), seed=1))


def test_a_base_method_never_has_a_teacher(make_learner, train):
    learner = make_learner("ms")
    rows = train(learner, range(2))
    assert learner.modifier is None
    assert [row["time/teacher_s"] for row in rows] == [0.0, 0.0]
    assert [row["train/distillation_weight"] for row in rows] == [0.0, 0.0]


def test_the_teacher_comes_after_the_first_epoch(make_learner, train):
    learner = make_learner("ms+psd", 75)
    assert learner.modifier.teacher.network is None
    first = train(learner, range(1))[0]
    assert first["train/distillation_loss"] == first["time/distillation_s"] == 0.0
    assert learner.modifier.teacher.network is not None
    second = train(learner, range(1, 2))[0]
    assert second["time/teacher_s"] > 0
    assert second["time/distillation_s"] > 0


def test_the_teacher_is_the_student_at_the_end_of_the_epoch_before(make_learner, train, batch, mining):
    learner = make_learner("ms+psd", 75)
    for epoch in range(3):
        train(learner, range(epoch, epoch + 1))
        learner.model.eval()
        with torch.no_grad():
            student = learner.model(batch.images)
            copied = copy.deepcopy(learner.modifier.teacher.network).eval()
            torch.testing.assert_close(copied(batch.images), student, rtol=0, atol=1e-6)
        taught = {name: tensor.clone() for name, tensor in learner.modifier.teacher.network.named_parameters()}
        learner.model.train()
        learner.step(batch, epoch + 1, mining)
        assert same(dict(learner.modifier.teacher.network.named_parameters()), taught)  # by the optimiser
        learner.model.eval()
        with torch.no_grad():
            assert (learner.model(batch.images) - student).abs().max() > 1e-4


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teacher_is_a_copy_without_gradients(mode, make_learner, train, batch, mining):
    learner = make_learner("ms+obdsd", 75, settings={"teacher_mode": mode})
    train(learner, range(1))
    learner.model.train()
    learner.step(batch, 1, mining)
    assert {module.training for module in learner.modifier.teacher.network.modules()} == {mode == "train"}
    assert learner.model.training
    assert all(parameter.grad is not None for parameter in learner.model.parameters())
    assert not any(parameter.requires_grad for parameter in learner.modifier.teacher.network.parameters())
    assert all(parameter.grad is None for parameter in learner.modifier.teacher.network.parameters())
    places = {parameter.data_ptr() for parameter in learner.model.parameters()}
    assert not places & {parameter.data_ptr() for parameter in learner.modifier.teacher.network.parameters()}
    optimised = {id(p) for group in learner.members[0].optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in learner.modifier.teacher.network.parameters()}


def test_the_teacher_sees_the_same_batch(make_learner, train, batch, mining):
    learner = make_learner("ms+psd", 75)
    train(learner, range(1))
    images, labels, *_ = batch
    learner.model.eval()  # a forward pass below must not move the statistics
    with torch.no_grad():
        embeddings = learner.model(images)
        ranking = learner.members[0].criterion(embeddings, labels)
        targets = psd_targets(learner.modifier.teacher.network(images), 1.0)
        expected = 75 * 2 / 4 * distillation_loss(embeddings, targets, 1.0)
    shown = learner.step(batch, 2, mining)
    assert float(shown[0]) == float(ranking)
    assert float(shown[1]) == float(expected)
    assert not any(loss.requires_grad for loss in shown)


def test_the_step_descends_both_losses(make_learner, train, batch, mining):
    """The gradient of a step is that of ranking + weight x distillation, written out."""
    learner = make_learner("ms+psd", 75)
    train(learner, range(1))
    with torch.no_grad():  # away from the teacher, where the distillation's gradient is not 0
        learner.model.head.weight.add_(0.3)
    images, labels, *_ = batch
    learner.model.eval()
    embeddings = learner.model(images)
    loss = learner.members[0].criterion(embeddings, labels)
    loss = loss + 75 * 3 / 4 * distillation_loss(
        embeddings, psd_targets(learner.modifier.teacher.network(images), 1.0), 1.0
    )
    expected = torch.autograd.grad(loss, list(learner.model.parameters()))
    learner.step(batch, 3, mining)
    for parameter, gradient in zip(learner.model.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_the_weight_grows_with_the_epoch_and_never_reaches_lambda(make_learner, train):
    learner = make_learner("ms+psd", 60, epochs=5)
    assert [learner.modifier_weight(epoch) for epoch in range(5)] == [0, 12, 24, 36, 48]
    rows = train(learner, range(5))
    assert [row["train/distillation_weight"] for row in rows] == [0, 12, 24, 36, 48]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")  # float16 skips steps until its scale fits
@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", [*BASES, "ms+psd", "margin+obdsd", "ms+psd-mem"])
def test_steps_in_half_precision_stay_finite(name, autocast, make_learner, train):
    learner = make_learner(name, *([75] if "+" in name else []), autocast=autocast)
    assert learner.scaler.is_enabled() == (autocast == "float16")
    before = state(learner)
    rows = train(learner, range(4))
    after = state(learner)
    assert all(torch.isfinite(torch.tensor(row["train/loss"])) for row in rows)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not torch.equal(after["model.head.weight"], before["model.head.weight"])
    assert after["model.head.weight"].dtype == torch.float32


def test_half_precision_is_another_computation(make_learner, batch, mining):
    """Otherwise the test above would test nothing."""
    losses = {
        autocast: float(make_learner("ms", autocast=autocast).step(batch, 0, mining)[0])
        for autocast in ("none", "bfloat16", "float16")
    }
    assert len(set(losses.values())) == 3
    assert losses["bfloat16"] == pytest.approx(losses["none"], rel=0.1)
    assert losses["float16"] == pytest.approx(losses["none"], rel=0.02)


@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_teacher_and_student_compute_in_the_same_precision(autocast, make_learner, batch, mining):
    learner = make_learner("ms+psd", 75, autocast=autocast)
    learner.step(batch, 0, mining)
    learner.end_epoch()
    types = {}
    for name, network in {"model": learner.model, "teacher": learner.modifier.teacher.network}.items():
        head = network.head
        head.register_forward_hook(lambda _module, _input, output, name=name: types.update({name: output.dtype}))
    learner.step(batch, 1, mining)
    expected = torch.bfloat16 if autocast == "bfloat16" else torch.float32
    assert types == {"model": expected, "teacher": expected}


def test_embeddings_that_a_loss_masks_away_still_show(make_learner, batch, mining):
    learner = make_learner("ms")
    learner.members[0].criterion.forward = lambda embeddings, labels, generator: embeddings.nan_to_num().sum() * 0
    with torch.no_grad():
        learner.model.head.weight.fill_(float("nan"))
    ranking, _ = learner.step(batch, 0, mining)
    assert ranking.isnan()
