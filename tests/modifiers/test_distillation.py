import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize

from dmlbench.modifiers import OBDSD, PSD, distillation_loss, obdsd_targets, psd_targets, relational_loss

few_examples = settings(max_examples=40)
seeds = st.integers(0, 10_000)
temperatures = st.sampled_from([0.005, 0.05, 0.2, 1.0, 4.0])
omegas = st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99])


def make_embeddings(seed=0, size=24, dimension=16):
    return normalize(torch.randn(size, dimension, generator=torch.Generator().manual_seed(seed)))


def diffused_slowly(embeddings, tau, omega, tau_diffusion):
    """Solve the same fixed point by explicit inversion in float64."""
    similarity = embeddings.double() @ embeddings.double().T
    affinities = (similarity / tau_diffusion).fill_diagonal_(-torch.inf).softmax(1)
    system = torch.eye(len(embeddings), dtype=torch.float64) - omega * affinities
    return (1 - omega) * system.inverse() @ (similarity / tau).softmax(1)


@given(seed=seeds, size=st.integers(1, 40), tau=temperatures, omega=omegas, tau_diffusion=temperatures)
@few_examples
def test_targets_are_distributions(seed, size, tau, omega, tau_diffusion):
    embeddings = make_embeddings(seed, size)
    for targets in (psd_targets(embeddings, tau), obdsd_targets(embeddings, tau, omega, tau_diffusion)):
        assert targets.shape == (size, size)
        assert (targets >= 0).all()
        torch.testing.assert_close(targets.sum(1), torch.ones(size), rtol=0, atol=3e-5)


@given(seed=seeds, tau=temperatures, tau_diffusion=temperatures)
@few_examples
def test_without_diffusion_it_is_psd(seed, tau, tau_diffusion):
    embeddings = make_embeddings(seed)
    assert obdsd_targets(embeddings, tau, 0.0, tau_diffusion).equal(psd_targets(embeddings, tau))


@given(seed=seeds, tau=temperatures, omega=omegas, tau_diffusion=temperatures)
@few_examples
def test_diffusion_reaches_its_fixed_point(seed, tau, omega, tau_diffusion):
    embeddings = make_embeddings(seed)
    expected = diffused_slowly(embeddings, tau, omega, tau_diffusion).float()
    # Similarities of 2e-7 error divided by a temperature of .005 leave 4e-5.
    torch.testing.assert_close(obdsd_targets(embeddings, tau, omega, tau_diffusion), expected, rtol=0, atol=1e-4)


@given(seed=seeds, omega=omegas, tau=temperatures)
@few_examples
def test_order_of_the_batch_does_not_matter(seed, omega, tau):
    embeddings, teacher = make_embeddings(seed), make_embeddings(seed + 1)
    order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(seed))
    targets = obdsd_targets(teacher, 1.0, omega, 0.5)
    moved = obdsd_targets(teacher[order], 1.0, omega, 0.5)
    torch.testing.assert_close(moved, targets[order][:, order], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        distillation_loss(embeddings[order], moved, tau),
        distillation_loss(embeddings, targets, tau),
        rtol=1e-4,
        atol=1e-5 * max(1, tau**2),  # a row's sum is good to 1e-5 at omega .99
    )


def test_rounding_leaves_no_negative_target():
    """Sharp affinities and an omega near 1 make the solver exchange rows, and its sums cancel."""
    for seed in range(20):
        embeddings = make_embeddings(seed, size=56, dimension=11)
        assert (obdsd_targets(embeddings, 0.05, 0.9999, 0.005) >= 0).all()


def test_duplicates_share_their_mass():
    targets = obdsd_targets(make_embeddings(size=1).repeat(5, 1), 1.0, 0.99, 0.005)
    torch.testing.assert_close(targets, torch.full((5, 5), 0.2))


@pytest.mark.parametrize("tau", [0.2, 1.0, 3.0])
def test_loss_is_the_scaled_divergence(tau):
    embeddings = make_embeddings(0)
    targets = psd_targets(make_embeddings(1), tau)
    student = psd_targets(embeddings, tau)
    divergence = (targets * (targets / student).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(embeddings, targets, tau), tau**2 * divergence)


@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_student_that_equals_its_teacher_is_left_alone(tau):
    embeddings = make_embeddings().requires_grad_()
    loss = distillation_loss(embeddings, psd_targets(embeddings, tau), tau)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert embeddings.grad.abs().max() < 1e-6


def test_gradient_is_the_derivative():
    embeddings = make_embeddings(size=6).double().requires_grad_()
    targets = obdsd_targets(make_embeddings(1, size=6).double(), 0.5, 0.9, 0.2)
    assert targets.dtype == torch.float64
    assert torch.autograd.gradcheck(lambda e: distillation_loss(e, targets, 0.5), embeddings)


def test_targets_carry_no_gradient():
    teacher = make_embeddings().requires_grad_()
    assert not psd_targets(teacher, 1.0).requires_grad
    assert not obdsd_targets(teacher, 1.0, 0.5, 1.0).requires_grad


def test_zero_targets_cost_nothing():
    embeddings = make_embeddings().requires_grad_()
    loss = distillation_loss(embeddings, torch.eye(24), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computes_in_float32_under_autocast(dtype):
    student, teacher = make_embeddings(0).to(dtype).requires_grad_(), make_embeddings(1).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        targets = obdsd_targets(teacher, 1.0, 0.99, 0.005)
        loss = distillation_loss(student, targets, 1.0)
    loss.backward()
    assert targets.equal(obdsd_targets(teacher.float(), 1.0, 0.99, 0.005))
    assert loss.item() == distillation_loss(student.float(), targets, 1.0).item()
    assert student.grad.isfinite().all()


def test_nothing_depends_on_the_data_s_values():
    """Fake tensors have no values: reading one (a host synchronisation) or a shape made of them raises."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        embeddings = torch.randn(16, 8, requires_grad=True)
        targets = obdsd_targets(torch.randn(16, 8), 1.0, 0.5, 1.0)
        distillation_loss(embeddings, targets, 1.0).backward()
    assert embeddings.grad.shape == (16, 8)


def test_modifiers_make_the_same_targets():
    teacher = make_embeddings()
    psd, obdsd = PSD(lambda_=75, tau=0.5), OBDSD(lambda_=75, tau=0.5, omega=0.3, tau_diffusion=0.1)
    assert psd.tau == obdsd.tau == 0.5
    assert psd.targets(teacher).equal(psd_targets(teacher, 0.5))
    assert obdsd.targets(teacher).equal(obdsd_targets(teacher, 0.5, 0.3, 0.1))


@pytest.mark.parametrize("tau", [0, -1, math.nan, math.inf])
def test_temperatures_are_checked(tau):
    embeddings = make_embeddings()
    for wrong in (
        lambda: PSD(tau=tau),
        lambda: psd_targets(embeddings, tau),
        lambda: OBDSD(tau=tau, omega=0.5, tau_diffusion=1.0),
        lambda: obdsd_targets(embeddings, tau, 0.5, 1.0),
        lambda: distillation_loss(embeddings, torch.eye(24), tau),
    ):
        with pytest.raises(ValueError, match="tau must be a finite number > 0"):
            wrong()
    with pytest.raises(ValueError, match="tau_diffusion must be a finite number > 0"):
        OBDSD(tau=1.0, omega=0.5, tau_diffusion=tau)


@pytest.mark.parametrize("omega", [-0.1, 1, 1.5, math.nan])
def test_omega_is_checked(omega):
    with pytest.raises(ValueError, match=r"omega must lie in \[0, 1\)"):
        OBDSD(tau=1.0, omega=omega, tau_diffusion=1.0)
    with pytest.raises(ValueError, match=r"omega must lie in \[0, 1\)"):
        obdsd_targets(make_embeddings(), 1.0, omega, 1.0)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"targets must be \(24, 24\)"):
        distillation_loss(make_embeddings(), torch.eye(23), 1.0)
    with pytest.raises(ValueError, match=r"embeddings must be a float tensor \(N, D\)"):
        psd_targets(make_embeddings()[0], 1.0)


def test_bad_input_is_one_clear_line():
    embeddings, targets = make_embeddings(), torch.eye(24)
    wrong = {
        "embeddings must be a float tensor (N, D) with N >= 1, got torch.int64 (24, ": lambda: psd_targets(
            embeddings.long(), 1.0
        ),
        "embeddings must be a float tensor (N, D) with N >= 1, got torch.complex64 (24, ": lambda: obdsd_targets(
            embeddings.to(torch.complex64), 1.0, 0.5, 1.0
        ),
        "embeddings must be a float tensor (N, D) with N >= 1, got ndarray": lambda: psd_targets(
            embeddings.numpy(), 1.0
        ),
        "embeddings must be a float tensor (N, D) with N >= 1, got (0, ": lambda: psd_targets(embeddings[:0], 1.0),
        "targets must be a float tensor (24, 24), got torch.int64 (24, 24)": lambda: distillation_loss(
            embeddings, targets.long(), 1.0
        ),
        "targets must be a float tensor (24, 24), got list": lambda: distillation_loss(embeddings, [[1.0]], 1.0),
        "targets must be on the embeddings' device cpu, got meta": lambda: distillation_loss(
            embeddings, torch.empty(24, 24, device="meta"), 1.0
        ),
        "tau must be a finite number > 0, got 1": lambda: psd_targets(embeddings, "1"),
        "omega must lie in [0, 1), got half": lambda: OBDSD(tau=1.0, omega="half", tau_diffusion=1.0),
    }
    for message, call in wrong.items():
        with pytest.raises(ValueError, match="must") as caught:
            call()
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_embedding_reaches_the_loss(broken):
    good, bad = make_embeddings(), make_embeddings()
    bad[3, 1] = broken
    for make in (lambda e: psd_targets(e, 1.0), lambda e: obdsd_targets(e, 1.0, 0.5, 1.0)):
        assert not distillation_loss(good, make(bad), 1.0).isfinite()
        assert not distillation_loss(bad, make(good), 1.0).isfinite()
    assert not relational_loss(good, bad).isfinite()
    assert not relational_loss(bad, good).isfinite()
