"""XBM, RKD and distillation from moving averages in training."""

import copy

import pytest
import torch

from dmlbench.errors import UserError
from dmlbench.modifiers import angular_loss, neighbourhood_loss, relational_loss
from tests.operations import waits
from tests.training.test_trainer import same, state, without_timings

SMALL = {"size": 20, "start": 4}
PAIRED = ("contrastive", "cosinecontrastive", "triplet", "margin", "ms")
OTHERS = ("ms+rkd", "margin+ema", "proxyanchor+ema", "ms+lsd", "ms+psd-ema", "triplet+obdsd-ema")
METHODS = [(name, {}) for name in OTHERS] + [(f"{base}+xbm", SMALL) for base in PAIRED]
every_method = pytest.mark.parametrize(("name", "settings"), METHODS)


@every_method
def test_weight_zero_is_the_base_bit_for_bit(name, settings, make_trainer, train):
    base, trainer = make_trainer(name.partition("+")[0]), make_trainer(name, 0, settings=settings)
    assert without_timings(train(trainer, range(3))) == without_timings(train(base, range(3)))
    assert same(state(trainer), state(base))
    assert trainer.modifier.state_dict().keys() <= {"_extra_state"}


@every_method
def test_with_a_weight_it_leaves_its_base(name, settings, make_trainer, train):
    base, trainer = make_trainer(name.partition("+")[0]), make_trainer(name, settings=settings)
    train(base, range(2))
    row = train(trainer, range(2))[-1]
    assert row["train/distillation_loss"] > 0
    assert row["train/loss"] == pytest.approx(row["train/ranking_loss"] + row["train/distillation_loss"])
    assert not same(state(base), state(trainer))


@every_method
def test_an_interrupted_training_ends_alike(name, settings, make_trainer, train):
    whole, begun, resumed = (make_trainer(name, settings=settings) for _ in range(3))
    train(whole, range(3))
    train(begun, range(2))
    resumed.restore(begun.state())
    train(resumed, range(2, 3))
    assert same(state(whole), state(resumed))
    own, other = whole.modifier.state_dict(), resumed.modifier.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(other[key])) for key, value in own.items()
               if value is not None)  # fmt: skip


@every_method
def test_nothing_waits_for_the_device(name, settings, make_trainer, batch, mining):
    trainer = make_trainer(name, settings=settings | ({"start": 0} if settings else {}))
    trainer.step(batch, 0, mining)
    trainer.end_epoch()
    assert not waits(lambda: trainer.step(batch, 1, mining))


@every_method
def test_the_bases_random_streams_stay(name, settings, make_trainer, batch):
    ends = []
    for own in (name.partition("+")[0], name):
        trainer = make_trainer(own, settings=settings if "+" in own else {})
        mining = torch.Generator().manual_seed(7)
        torch.manual_seed(5)
        for epoch in range(8):
            trainer.step(batch, epoch // 2, mining)
        ends.append((mining.get_state(), torch.get_rng_state()))
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")  # float16 skips steps until its scale fits
@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
@every_method
def test_half_precision_stays_finite(name, settings, autocast, make_trainer, train):
    trainer = make_trainer(name, settings=settings, autocast=autocast)
    rows = train(trainer, range(3))
    assert all(torch.isfinite(torch.tensor(row["train/loss"])) for row in rows)
    assert all(tensor.isfinite().all() for tensor in state(trainer).values())
    if settings:
        embeddings, _ = trainer.modifier.held()
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))


@pytest.mark.parametrize("base", PAIRED)
def test_the_memory_has_the_batch_and_those_before_it(base, make_trainer, batch, mining):
    """The loss added is the base's own of the batch with what was embedded so far, from the step after `start`."""
    trainer, embedded = make_trainer(f"{base}+xbm", 0.5, settings={"size": 1000, "start": 1}), []
    forward = trainer.model.embed
    trainer.model.embed = lambda features: embedded.append(forward(features)) or embedded[-1]
    added = []
    for _ in range(3):
        before, criterion = mining.get_state(), copy.deepcopy(trainer.networks[0].criterion)
        added.append(trainer.step(batch, 0, mining)[1])
    references, labels = torch.cat([own.detach() for own in embedded[1:]]), batch.labels.repeat(2)
    assert all(torch.equal(*pair) for pair in zip(trainer.modifier.held(), (references, labels), strict=True))
    expected = criterion(
        embedded[-1].detach(),
        batch.labels,
        generator=mining.set_state(before),
        references=references,
        reference_labels=labels,
    )
    assert added[0] == 0
    assert float(added[-1]) == float(0.5 * expected.detach()) > 0


LOSS = """\
import torch
class Plain(torch.nn.Module):
    def forward(self, embeddings, labels, generator=None):
        return embeddings.sum() * 0
"""
LOSS_FILE = "name: plain\ntitle: Plain\nkind: loss\nclass: Plain\nplugin: plain.py\npaper: null\nparameters: {}\n"


def test_a_base_without_references(make_trainer, tmp_path):
    with pytest.raises(
        UserError, match=r"proxyanchor\+xbm: the base takes no references.*bases: circle, contrastive, cosine"
    ):
        make_trainer("proxyanchor+xbm")
    (tmp_path / "plain.yaml").write_text(LOSS_FILE)
    (tmp_path / "plain.py").write_text(LOSS)
    with pytest.raises(UserError, match=r"plain\+xbm: the base takes no references.*for example ms\+xbm"):
        make_trainer("plain+xbm", methods_dir=tmp_path)


def test_rkd_is_regressed_to_the_epoch_before(make_trainer, train, batch, mining):
    trainer = make_trainer("ms+rkd", 3.0)
    (row,) = train(trainer, range(1))
    assert row["train/distillation_loss"] == 0
    with torch.no_grad():  # away from the teacher
        trainer.model.head.weight.add_(0.3 * torch.randn(trainer.model.head.weight.shape, generator=mining))
    trainer.model.eval()
    with torch.no_grad():
        own, teacher = trainer.model(batch.images), trainer.modifier.teacher.network(batch.images)
        expected = 3 * (relational_loss(own, teacher) + 2 * angular_loss(own, teacher))
    assert float(trainer.step(batch, 1, mining)[1]) == float(expected) > 0


def test_ema_weighs_the_same_from_the_first_step(make_trainer, batch, mining):
    trainer = make_trainer("ms+ema", 2.0, settings={"momentum": 0.75})
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.model.eval()
    with torch.no_grad():
        own = trainer.model(batch.images)
        expected = 2 * neighbourhood_loss(own, own, 0.1)
    assert float(trainer.step(batch, 0, mining)[1]) == pytest.approx(float(expected))
    assert not trainer.modifier.average.network.training
    for own, old, new in zip(
        trainer.modifier.average.network.parameters(), before, trainer.model.parameters(), strict=True
    ):
        torch.testing.assert_close(own, 0.75 * old + 0.25 * new)
    optimised = {id(p) for group in trainer.networks[0].optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in trainer.modifier.parameters()}
