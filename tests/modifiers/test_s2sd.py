import pytest
import torch
from torch.nn import functional
from torch.nn.functional import normalize

from dmlbench.modifiers import S2SD
from dmlbench.modifiers.s2sd import AuxiliaryHeads

SETTINGS = {
    "lambda_": 50.0,
    "tau": 1.0,
    "dimensions": "16,24",
    "features": False,
    "feature_weight": 50.0,
    "feature_delay": 0,
}


def embeddings(seed, dimension):
    return normalize(torch.randn(6, dimension, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("tau", [1.0, 0.4])
def test_the_divergence_is_the_mean_divergence_of_similarities(tau):
    """tau^2 * sum / N of KL(teacher || student) over rows, and the mean over branches (official code, `kl_div`)."""
    own, wider = embeddings(0, 4).requires_grad_(), [embeddings(1, 16), embeddings(2, 24)]
    expected = 0
    for branch in wider:
        student = functional.log_softmax(own @ own.T / tau, dim=-1)
        teacher = functional.softmax(branch @ branch.T / tau, dim=-1)
        expected += (teacher * (teacher.log() - student)).sum() * tau**2 / 6 / 2
    torch.testing.assert_close(S2SD(**SETTINGS | {"tau": tau}).divergence(own, wider), expected)


def test_who_teaches_gets_no_gradient():
    own, branch = embeddings(0, 4).requires_grad_(), embeddings(1, 16).requires_grad_()
    S2SD(**SETTINGS).divergence(own, [branch]).backward()
    assert own.grad.abs().sum() > 0
    assert branch.grad is None


def test_features_teach_by_their_directions():
    own, features = embeddings(0, 4), torch.randn(6, 9, generator=torch.Generator().manual_seed(3))
    settings = S2SD(**SETTINGS)
    torch.testing.assert_close(
        settings.feature_divergence(own, features), settings.divergence(own, [normalize(features)])
    )


def test_branches_have_two_layers_and_unit_length():
    wider = AuxiliaryHeads(9, S2SD(**SETTINGS).dimensions)
    assert [[type(layer).__name__ for layer in branch] for branch in wider.branches] == [
        ["Linear", "ReLU", "Linear"]
    ] * 2
    found = wider(torch.randn(6, 9))
    assert [branch.shape for branch in found] == [(6, 16), (6, 24)]
    assert all(torch.allclose(branch.norm(dim=1), torch.ones(6)) for branch in found)


@pytest.mark.parametrize(
    "change",
    [{"tau": 0.0}, {"dimensions": "16,x"}, {"dimensions": "0"}, {"feature_weight": -1.0}, {"feature_delay": -1}],
)
def test_settings_out_of_range(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} "):
        S2SD(**SETTINGS | change)
