"""The step as it is built for speed against the plain form of the same arithmetic, both in float32."""

import pytest
import torch

from dmlbench.data.loader import TrainingBatches
from dmlbench.modifiers import teachers
from dmlbench.training.loop import train_epoch

CPU = torch.device("cpu")


class _Looped(torch.optim.Adam):
    """One parameter after the other, whatever is asked for."""

    def __init__(self, groups, *, lr, fused):
        assert fused
        super().__init__(groups, lr=lr, foreach=False)


@pytest.fixture
def trained(make_trainer, make_protocol, split):
    """A trainer after three epochs of three steps, and its rows."""

    def run(name, **settings):
        settings |= {"learning_rate": 1e-3}
        trainer = make_trainer(name, 75 if "+" in name else None, **settings)
        with TrainingBatches(split, make_protocol(**settings), 0) as batches:
            return trainer, [train_epoch(trainer, batches, epoch, 0, CPU) for epoch in range(3)]

    return run


def weights(model):
    """All but what a BatchNorm takes away again: the gradient of such a bias is rounding, which Adam scales up.

    Its running mean follows such a bias late, so that a teacher in evaluation mode differs in the fourth digit.
    """
    biases = {f"{name}.bias" for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
    return {name: parameter for name, parameter in model.named_parameters() if name not in biases}


@pytest.mark.parametrize("name", ["ms", "proxyanchor", "ms+psd", "ms+obdsd", "contrastive+obdsd-mem"])
def test_fast_and_plain_training_agree(name, trained, monkeypatch):
    """Channels last, fused Adam and a folded teacher change the rounding alone: weights differ by up to 1e-6."""
    quick, rows = trained(name, channels_last=True)
    assert quick.networks[0].optimizer.param_groups[0]["fused"]
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim, "Adam", _Looped)
        patched.setattr(teachers, "folded", lambda network: network)
        plain, plain_rows = trained(name, channels_last=False)
    assert isinstance(plain.networks[0].optimizer, _Looped)
    for row, plain_row in zip(rows, plain_rows, strict=True):
        assert row["train/ranking_loss"] == pytest.approx(plain_row["train/ranking_loss"], rel=1e-5)
        assert row["train/distillation_loss"] == pytest.approx(plain_row["train/distillation_loss"], rel=1e-3)
    for (part, mine), its in zip(weights(quick.model).items(), weights(plain.model).values(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6, msg=part)
    variances = (
        [value for name, value in one.model.named_buffers() if "running_var" in name] for one in (quick, plain)
    )
    for mine, its in zip(*variances, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["ms", "proxyanchor", "margin+obdsd"])
def test_gradients_lie_in_memory_as_their_weights_do(name, trained):
    """On a CPU fused Adam walks both in the order of their memory, and would mix up others without a word."""
    trainer, _ = trained(name, channels_last=True)
    parameters = [part for group in trainer.networks[0].optimizer.param_groups for part in group["params"]]
    assert any(part.ndim == 4 and not part.is_contiguous() for part in parameters)
    for part in parameters:
        assert part.grad.stride() == part.stride()
        assert all(
            kept.stride() == part.stride() for kept in trainer.networks[0].optimizer.state[part].values() if kept.ndim
        )


def similarities(trainer, split, *, autocast):
    images = (split.images.float() / 255 - 0.5) / 0.25
    trainer.model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        embeddings = trainer.model(images)
    return embeddings @ embeddings.T


@pytest.mark.parametrize("name", ["ms", "ms+psd", "ms+obdsd-mem"])
def test_bfloat16_against_single_precision(name, trained, split):
    """Cosine similarities of the same weights within .005, and of trainings in either, of nine steps, within .1."""
    half, single = (trained(name, autocast=autocast)[0] for autocast in ("bfloat16", "none"))
    exact = similarities(single, split, autocast=False)
    rounded = similarities(single, split, autocast=True)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=5e-3)
    torch.testing.assert_close(similarities(half, split, autocast=True), exact, rtol=0, atol=0.1)
