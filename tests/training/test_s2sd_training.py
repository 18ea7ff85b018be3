"""S2SD in training: what it adds to the base, and that it leaves the base's streams alone."""

import pytest
import torch

from dmlbench.modifiers import S2SD, ForwardOutput
from tests.training.conftest import step_context

SMALL = {"dimensions": "16,24", "lambda": 50.0}


def trainer_of(make_trainer, base="ms", **settings):
    return make_trainer(f"{base}+s2sd", settings=SMALL | settings)


@pytest.fixture
def added(batch, mining):
    """What a trainer's modifier adds in a step, with the forward output it was given."""

    def run(trainer):
        features = trainer.model.backbone(batch.images)
        embeddings = trainer.model.embed(features)
        ranking = trainer.networks[0].criterion(embeddings, batch.labels, generator=mining)
        output = ForwardOutput(features, embeddings, ranking)
        (loss,) = trainer.modifier.loss([output], step_context(batch, 0, mining.get_state()))
        return output, loss.detach()

    return run


def test_the_whole_loss_is_the_official_codes(make_trainer, added, batch):
    """(L + mean L_i) / 2 + lambda mean KL_i."""
    trainer = trainer_of(make_trainer)
    output, loss = added(trainer)
    heads = trainer.modifier.heads(output.features)
    rankings = [criterion(own, batch.labels) for criterion, own in zip(trainer.modifier.criteria, heads, strict=True)]
    expected = (output.ranking + sum(rankings) / 2) / 2 + 50 * trainer.modifier.divergence(output.embeddings, heads)
    torch.testing.assert_close((output.ranking + loss).detach(), expected.detach())


def test_branches_learn_the_ranking_and_not_the_divergence(make_trainer, batch, mining):
    """The gradient of a branch is that of half its share of the ranking loss, whatever lambda is."""
    gradients = []
    for weight in (1.0, 50.0):
        trainer = trainer_of(make_trainer, **{"lambda": weight})
        trainer.step(batch, 0, mining.manual_seed(1))
        gradients.append([parameter.grad.clone() for parameter in trainer.modifier.heads.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("base", ["triplet", "margin", "proxyanchor"])
def test_every_branch_has_a_loss_of_its_own(base, make_trainer, batch, mining):
    trainer = trainer_of(make_trainer, base)
    if base == "proxyanchor":
        assert [loss.proxies.shape[1] for loss in trainer.modifier.criteria] == [16, 24]
    before = [parameter.detach().clone() for parameter in trainer.modifier.criteria.parameters()]
    trainer.step(batch, 0, mining)
    after = list(trainer.modifier.criteria.parameters())
    assert len(before) == {"triplet": 0, "margin": 2, "proxyanchor": 2}[base]
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_bases_streams_are_as_they_were(make_trainer, batch, mining):
    base, own = make_trainer("triplet"), trainer_of(make_trainer, "triplet")
    assert all(torch.equal(a, b) for a, b in zip(base.model.parameters(), own.model.parameters(), strict=True))
    ends = []
    for trainer in (base, own):
        losses = trainer.step(batch, 0, mining.manual_seed(3))
        ends.append((float(losses[0]), mining.get_state()))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


def test_weight_decay_leaves_branches_alone_and_their_rate_is_the_networks(make_trainer):
    groups = trainer_of(make_trainer).networks[0].optimizer.param_groups
    assert groups[-1]["weight_decay"] == 0.0
    assert groups[-1]["lr"] == groups[0]["lr"]
    assert groups[0]["weight_decay"] > 0


def test_features_teach_after_their_delay(make_trainer, added):
    late = trainer_of(make_trainer, features=True, feature_delay=1, feature_weight=20.0)
    output, first = added(late)
    _, second = added(late)
    divergence = late.modifier.feature_divergence(output.embeddings, output.features)
    assert float(second - first) == pytest.approx(20 * float(divergence.detach()), rel=1e-4)
    never = trainer_of(make_trainer, features=False, feature_delay=0, feature_weight=20.0)
    assert float(added(never)[1]) == pytest.approx(float(first), rel=1e-5)


def test_what_is_kept_goes_on_where_it_was(make_trainer, batch, mining):
    def steps(trainer, count):
        for _ in range(count):
            trainer.step(batch, 0, mining)

    whole, first, second = (trainer_of(make_trainer, features=True, feature_delay=3) for _ in range(3))
    steps(whole, 5)
    steps(first, 2)
    second.restore(first.state())
    steps(second, 3)
    assert isinstance(second.modifier, S2SD)
    for one, other in ((whole.model, second.model), (whole.modifier, second.modifier)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
