import math

import pytest
import torch
from torch.nn import functional
from torch.nn.functional import normalize

from dmlbench.modifiers import RKD, angular_loss, neighbourhood_loss, relational_loss


def embeddings(seed, count=7, dimension=5):
    return normalize(torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def by_hand(own, other):
    """RKD's angle potential as its paper writes it, three embeddings at a time."""

    def cosines(points):
        count = range(len(points))
        way = {(i, j): functional.normalize(points[j] - points[i], dim=0, eps=1e-12) for i in count for j in count}
        return torch.stack([way[i, j] @ way[i, k] for i in count for j in count for k in count])

    return functional.smooth_l1_loss(cosines(own), cosines(other).detach())


def test_value_and_gradient_are_those_of_the_definition():
    own, other = embeddings(0).requires_grad_(), embeddings(1)
    expected = by_hand(own, other)
    (gradient,) = torch.autograd.grad(expected, own)
    loss = angular_loss(own, other)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, own)[0], gradient)


def test_angles_do_not_change_with_scale_rotation_and_place():
    own = embeddings(0)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    assert angular_loss(own, 3 * own @ rotation + 1) < 1e-12
    assert angular_loss(own, embeddings(1)) > 1e-3


def test_the_weights_of_both_potentials():
    own, other = embeddings(0), embeddings(1)
    distance, angle = relational_loss(own, other), angular_loss(own, other)
    torch.testing.assert_close(RKD(angle=2.0).divergence(own, other), distance + 2 * angle)
    torch.testing.assert_close(RKD(angle=0.0).divergence(own, other), distance)
    with pytest.raises(ValueError, match="angle must be at least 0, got -1"):
        RKD(angle=-1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_embeddings_have_a_finite_gradient(dtype):
    own = embeddings(0).to(dtype)
    twice = torch.cat([own, own]).requires_grad_()
    angular_loss(twice, torch.cat([embeddings(1), embeddings(2)]).to(dtype)).backward()
    assert twice.grad.isfinite().all()
    assert twice.grad.abs().max() < 1
    collapsed = own[:1].expand(4, -1).clone().requires_grad_()
    angular_loss(collapsed, own[:4]).backward()
    assert collapsed.grad.isfinite().all()


@pytest.mark.parametrize("compute", [angular_loss, lambda own, other: neighbourhood_loss(own, other, 0.1)])
def test_what_every_relation_has_in_common(compute):
    own, other = embeddings(0).requires_grad_(), embeddings(1, dimension=9).requires_grad_()
    compute(own, other).backward()
    assert own.grad is not None
    assert other.grad is None
    half, its = embeddings(0).bfloat16(), embeddings(1).bfloat16()
    assert compute(half, its) == compute(half.float(), its.float())
    broken = embeddings(0)
    broken[2, 1] = math.nan
    assert compute(broken, embeddings(1)).isnan()
    assert compute(embeddings(0), broken).isnan()
    assert compute(embeddings(0, count=1), embeddings(1, count=1)) == 0
    with pytest.raises(ValueError, match="7 and 3"):
        compute(embeddings(0), embeddings(1, count=3))
    with pytest.raises(ValueError, match=r"must be a float tensor \(N, D\)"):
        compute(embeddings(0).long(), embeddings(1))


def test_a_neighbourhood_is_of_the_others_alone():
    """Cross-entropy of rows without the diagonal, without tau^2, over the images."""
    own, other, tau = embeddings(0), embeddings(1), 0.3
    expected = 0
    for row in range(7):
        others = [column for column in range(7) if column != row]
        teacher = (other[row] @ other[others].T / tau).softmax(0)
        expected -= (teacher * (own[row] @ own[others].T / tau).log_softmax(0)).sum() / 7
    torch.testing.assert_close(neighbourhood_loss(own, other, tau), expected)
    with pytest.raises(ValueError, match="tau must be a finite number > 0"):
        neighbourhood_loss(own, other, 0)
