"""DM²: each diversity has its own effect, and switched off removes it exactly."""

import pytest
import torch
from torch.nn.functional import normalize

from dmlbench.data.loader import Batch, TrainingBatches
from dmlbench.errors import UserError
from dmlbench.training.evaluator import Evaluator
from dmlbench.training.loop import train_epoch
from tests.training.conftest import CPU

OFF = {"lambda": 1.0, "members": 2, "model": False, "view": False, "period": 1}


@pytest.fixture
def trained(make_trainer, make_protocol, split):
    """A trainer after some epochs, with the views it asks for, and its rows."""

    def run(name, epochs=2, trainer=None, **settings):
        trainer = trainer or make_trainer(name, **({"settings": settings} if settings else {}))
        protocol = make_protocol().model_copy(update={"input": _shifted(make_protocol().input)})
        with TrainingBatches(split, protocol, 0, views=trainer.views) as batches:
            return trainer, [train_epoch(trainer, batches, epoch, 0, CPU) for epoch in range(epochs)]

    return run


def _shifted(spec):
    """Augmentation that differs from draw to draw."""
    return spec.model_copy(update={"augmentation": "affine", "translation": 0.2, "rotation": 20.0})


def weights(network):
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


def distance(trainer):
    first, second = map(weights, trainer.models)
    return float((first - second).abs().max())


@pytest.mark.parametrize("base", ["ms", "triplet", "margin", "proxyanchor"])
def test_without_any_diversity_all_members_are_the_base(base, trained):
    reference, rows = trained(base)
    trainer, own = trained(f"{base}+dm2", **OFF)
    assert distance(trainer) == 0.0
    assert torch.equal(weights(trainer.model), weights(reference.model))
    assert [row["train/distillation_loss"] for row in own] == [0.0, 0.0]
    assert [row["train/ranking_loss"] for row in own] == [row["train/ranking_loss"] for row in rows]


@pytest.mark.parametrize("diversity", [{"model": True}, {"view": True}, {"period": 2}])
def test_each_diversity_alone_tells_members_apart(diversity, trained):
    trainer, rows = trained("ms+dm2", **OFF | diversity)
    assert distance(trainer) > 1e-3
    assert rows[-1]["train/distillation_loss"] > 0


@pytest.mark.parametrize(
    ("name", "diversity"), [("model", {"model": True}), ("view", {"view": True}), ("temporal", {"period": 2})]
)
def test_ablations_by_name_are_those_diversities(name, diversity, trained):
    by_name, _ = trained(f"ms+dm2-{name}")
    by_setting, _ = trained("ms+dm2", **OFF | diversity)
    for one, other in zip(by_name.models, by_setting.models, strict=True):
        assert torch.equal(weights(one), weights(other))


@pytest.mark.parametrize("base", ["ms", "triplet", "proxyanchor"])
def test_the_first_of_independent_members_is_the_base_bit_for_bit(base, trained):
    reference, _ = trained(base)
    trainer, rows = trained(f"{base}+independent")
    assert torch.equal(weights(trainer.model), weights(reference.model))
    assert distance(trainer) > 1e-3
    assert rows[-1]["train/distillation_loss"] == 0.0


def test_dropout_of_the_others_leaves_the_bases_stream_alone(make_trainer, batch):
    ends = []
    for name in ("ms", "ms+independent"):
        trainer = make_trainer(name)
        for network in trainer.models:
            network.backbone = torch.nn.Sequential(network.backbone, torch.nn.Dropout(0.3))
        torch.manual_seed(5)
        for _ in range(3):
            trainer.step(batch, 0, torch.Generator().manual_seed(1))
        ends.append((weights(trainer.model), torch.get_rng_state()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_independent_members_know_nothing_of_each_other(trained, make_trainer):
    alone, _ = trained("ms+independent")
    other = make_trainer("ms+independent")
    with torch.no_grad():
        other.models[0].head.weight.add_(0.5)
    disturbed, _ = trained("", trainer=other)
    assert torch.equal(weights(alone.models[1]), weights(disturbed.models[1]))


def test_members_differ_as_wholes_from_scratch_and_in_heads_where_weights_are_pretrained(make_trainer, tmp_path):
    trainer = make_trainer("ms+dm2")
    first, second = trainer.models
    assert not torch.equal(first.backbone.blocks[0][0].weight, second.backbone.blocks[0][0].weight)
    path = tmp_path / "pretrained.pth"
    torch.save(first.backbone.state_dict(), path)
    trainer = make_trainer("ms+dm2", model={"weights": str(path)})
    first, second = trainer.models
    assert torch.equal(first.backbone.blocks[0][0].weight, second.backbone.blocks[0][0].weight)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_members_share_images_and_labels_and_have_their_own_views(make_trainer, batch, mining):
    trainer = make_trainer("ms+dm2-view")
    assert trainer.views == 2
    seen = []
    for network in trainer.models:
        network.backbone.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    other = batch.images + 1
    trainer.step(Batch(batch.images, batch.labels, batch.indices, (other,)), 0, mining)
    assert torch.equal(seen[0], batch.images)
    assert torch.equal(seen[1], other)


def test_a_slower_member_updates_by_the_mean_of_its_gradients(make_trainer, batch, mining):
    """Of the steps between two updates; the first member updates at every step."""
    trainer = make_trainer("ms+dm2", settings=OFF | {"period": 2, "lambda": 0.0})
    flipped = Batch(batch.images.flip(-1), batch.labels, batch.indices)
    first, second = trainer.models
    gradients = []
    for one in (batch, flipped):
        reference = make_trainer("ms")
        reference.step(one, 0, mining)
        gradients.append([parameter.grad.clone() for parameter in reference.model.parameters()])
    before = weights(second)
    trainer.step(batch, 0, mining)
    assert torch.equal(weights(second)[: len(before)][:64], before[:64])
    moved = [parameter.detach().clone() for parameter in first.parameters()]
    trainer.step(flipped, 0, mining)
    assert not any(torch.equal(old, new) for old, new in zip(moved, first.parameters(), strict=True))
    for parameter, one, other in zip(second.parameters(), *gradients, strict=True):
        torch.testing.assert_close(parameter.grad, (one + other) / 2, rtol=1e-4, atol=1e-6)


def test_gradients_that_wait_survive_a_resumption_bit_for_bit(make_trainer, batch, mining):
    def steps(trainer, count):
        for _ in range(count):
            trainer.step(Batch(batch.images, batch.labels, batch.indices, (batch.images,)), 0, mining)

    whole, first, second = (make_trainer("proxyanchor+dm2") for _ in range(3))
    steps(whole, 5)
    steps(first, 3)
    state = first.state()
    assert state["networks"][1]["taken"] == 1
    second.restore(state)
    steps(second, 2)
    for one, other in zip(whole.models, second.models, strict=True):
        assert torch.equal(weights(one), weights(other))


def test_waiting_gradients_are_refused_in_float16(make_trainer):
    with pytest.raises(UserError, match="gradients cannot wait under"):
        make_trainer("ms+dm2", autocast="float16")


def test_readouts_are_each_their_mean_and_all_side_by_side(make_trainer, make_protocol, split):
    trainer = make_trainer("ms+dm2")
    evaluator = Evaluator(split, make_protocol(), 0, CPU)
    found = evaluator.measure(trainer.models, clustering=False)
    each = [evaluator.measure([network], clustering=False) for network in trainer.models]
    for name in ("recall_at_1", "map_at_r"):
        assert [found[f"member{place}/{name}"] for place in (1, 2)] == [own[name] for own in each]
        assert found[name] == pytest.approx((each[0][name] + each[1][name]) / 2)
    joint = normalize(torch.cat([evaluator.embed(network) for network in trainer.models], dim=1), dim=1)
    expected = evaluator.score(joint, clustering=False)
    assert {name: found[f"ensemble/{name}"] for name in expected} == expected
