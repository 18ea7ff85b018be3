import pytest
import torch
from torch.nn import functional
from torch.nn.functional import normalize

from dmlbench.modifiers import DM2, relational_loss


def embeddings(seed, count=7, dimension=5):
    return normalize(torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def by_hand(own, other):
    """RKD's distance potential as its paper writes it, pair by pair."""

    def relative(points):
        count = len(points)
        distances = torch.stack(
            [
                (points[i] - points[j]).norm() if i != j else points.new_zeros(())
                for i in range(count)
                for j in range(count)
            ]
        )
        return distances / distances[distances > 0].mean()

    return functional.smooth_l1_loss(relative(own), relative(other).detach())


def test_value_and_gradient_are_those_of_the_definition():
    own, other = embeddings(0).requires_grad_(), embeddings(1)
    expected = by_hand(own, other)
    (gradient,) = torch.autograd.grad(expected, own)
    loss = relational_loss(own, other)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, own)[0], gradient)


def test_embeddings_are_free_variables():
    """Of any length: a Gram matrix that takes unit length for granted has another gradient."""
    own, other = (3 * embeddings(0)).requires_grad_(), embeddings(1)
    (gradient,) = torch.autograd.grad(by_hand(own, other), own)
    torch.testing.assert_close(torch.autograd.grad(relational_loss(own, other), own)[0], gradient)


def test_distances_count_relative_to_their_mean():
    own = embeddings(0)
    assert relational_loss(own, 5 * own) < 1e-12
    assert relational_loss(own, embeddings(1)) > 1e-3


def test_dimensions_may_differ_and_targets_get_no_gradient():
    own, other = embeddings(0).requires_grad_(), embeddings(1, dimension=9).requires_grad_()
    relational_loss(own, other).backward()
    assert own.grad is not None
    assert other.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_embeddings_have_a_finite_gradient(dtype):
    own = embeddings(0).to(dtype)
    twice = torch.cat([own, own]).requires_grad_()
    relational_loss(twice, torch.cat([embeddings(1), embeddings(2)]).to(dtype)).backward()
    assert twice.grad.isfinite().all()
    collapsed = own[:1].expand(4, -1).clone().requires_grad_()
    loss = relational_loss(collapsed, own[:4])
    loss.backward()
    assert loss.isfinite()
    assert collapsed.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    own, other = embeddings(0).bfloat16(), embeddings(1).bfloat16()
    assert relational_loss(own, other) == relational_loss(own.float(), other.float())


def test_a_cohort_learns_from_all_others():
    cohort = DM2(lambda_=1.0, members=3, model=True, view=True, period=1)
    own = [embeddings(seed).requires_grad_() for seed in range(3)]
    losses = cohort.mutual_losses(own)
    for place, loss in enumerate(losses):
        others = [relational_loss(own[place], own[other]) for other in range(3) if other != place]
        torch.testing.assert_close(loss, sum(others) / 2)
    gradients = torch.autograd.grad(losses[0], own, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [True, False, False]


@pytest.mark.parametrize(("change", "message"), [({"members": 1}, "members"), ({"period": 0}, "period")])
def test_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        DM2(**({"lambda_": 1.0, "members": 2, "model": True, "view": True, "period": 2} | change))


def test_counts_that_do_not_match():
    with pytest.raises(ValueError, match="7 and 3"):
        relational_loss(embeddings(0), embeddings(1, count=3))
