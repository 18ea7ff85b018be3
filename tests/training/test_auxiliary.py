"""S2SD in training: what it adds to the base, and that it leaves the base's streams alone."""

import pytest
import torch

from dmlbench.training.auxiliary import Wider
from dmlbench.training.modifiers import Pass, Step

SMALL = {"dimensions": "16,24", "lambda": 50.0}


def learner_of(make_learner, base="ms", **settings):
    return make_learner(f"{base}+s2sd", settings=SMALL | settings)


@pytest.fixture
def added(batch, mining):
    """What a learner's modifier adds in a step, with the pass it was given."""

    def run(learner):
        features = learner.model.backbone(batch.images)
        embeddings = learner.model.embed(features)
        ranking = learner.members[0].criterion(embeddings, batch.labels, generator=mining)
        passed = Pass(features, embeddings, ranking)
        (loss,) = learner.modifier.losses([passed], Step(batch, 0, mining.get_state()))
        return passed, loss.detach()

    return run


def test_the_whole_loss_is_the_official_codes(make_learner, added, batch):
    """(L + mean L_i) / 2 + lambda mean KL_i."""
    learner = learner_of(make_learner)
    passed, loss = added(learner)
    wider = learner.modifier.wider(passed.features)
    rankings = [criterion(own, batch.labels) for criterion, own in zip(learner.modifier.criteria, wider, strict=True)]
    expected = (passed.ranking + sum(rankings) / 2) / 2 + 50 * learner.modifier._settings.lesson(
        passed.embeddings, wider
    )
    torch.testing.assert_close((passed.ranking + loss).detach(), expected.detach())


def test_branches_learn_the_ranking_and_not_the_lesson(make_learner, batch, mining):
    """The gradient of a branch is that of half its share of the ranking loss, whatever lambda is."""
    gradients = []
    for weight in (1.0, 50.0):
        learner = learner_of(make_learner, **{"lambda": weight})
        learner.step(batch, 0, mining.manual_seed(1))
        gradients.append([parameter.grad.clone() for parameter in learner.modifier.wider.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("base", ["triplet", "margin", "proxyanchor"])
def test_every_branch_has_a_loss_of_its_own(base, make_learner, batch, mining):
    learner = learner_of(make_learner, base)
    if base == "proxyanchor":
        assert [loss.proxies.shape[1] for loss in learner.modifier.criteria] == [16, 24]
    before = [parameter.detach().clone() for parameter in learner.modifier.criteria.parameters()]
    learner.step(batch, 0, mining)
    after = list(learner.modifier.criteria.parameters())
    assert len(before) == {"triplet": 0, "margin": 2, "proxyanchor": 2}[base]
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_bases_streams_are_as_they_were(make_learner, batch, mining):
    base, own = make_learner("triplet"), learner_of(make_learner, "triplet")
    assert all(torch.equal(a, b) for a, b in zip(base.model.parameters(), own.model.parameters(), strict=True))
    ends = []
    for learner in (base, own):
        losses = learner.step(batch, 0, mining.manual_seed(3))
        ends.append((float(losses[0]), mining.get_state()))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


def test_weight_decay_leaves_branches_alone_and_their_rate_is_the_networks(make_learner):
    groups = learner_of(make_learner).members[0].optimizer.param_groups
    assert groups[-1]["weight_decay"] == 0.0
    assert groups[-1]["lr"] == groups[0]["lr"]
    assert groups[0]["weight_decay"] > 0


def test_features_teach_after_their_delay(make_learner, added):
    late = learner_of(make_learner, features=True, feature_delay=1, feature_weight=20.0)
    passed, first = added(late)
    _, second = added(late)
    lesson = late.modifier._settings.feature_lesson(passed.embeddings, passed.features)
    assert float(second - first) == pytest.approx(20 * float(lesson.detach()), rel=1e-4)
    never = learner_of(make_learner, features=False, feature_delay=0, feature_weight=20.0)
    assert float(added(never)[1]) == pytest.approx(float(first), rel=1e-5)


def test_what_is_kept_goes_on_where_it_was(make_learner, batch, mining):
    def steps(learner, count):
        for _ in range(count):
            learner.step(batch, 0, mining)

    whole, first, second = (learner_of(make_learner, features=True, feature_delay=3) for _ in range(3))
    steps(whole, 5)
    steps(first, 2)
    second.restore(first.state())
    steps(second, 3)
    assert isinstance(second.modifier, Wider)
    for one, other in ((whole.model, second.model), (whole.modifier, second.modifier)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
