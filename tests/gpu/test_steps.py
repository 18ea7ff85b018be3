"""Every method takes steps on a GPU, saves and restores its state, and never makes the host wait."""

import io

import pytest
import torch

from dmlbench.errors import UserError
from dmlbench.specs.registry import Registry
from tests.gpu.nullgpu.kernels import counted

# Every base, and every modifier on one base without and one with mining and parameters of its own.
METHODS = [name for name in Registry().names() if "+" not in name or name.partition("+")[0] in ("ms", "margin")]


def two_epochs(made) -> None:
    for epoch in range(2):
        for number in range(2):
            made.step(epoch, number)
        made.trainer.end_epoch()


def through_a_file(trainer) -> None:
    file = io.BytesIO()
    torch.save(trainer.state(), file)
    file.seek(0)
    trainer.restore(torch.load(file, map_location="cpu", weights_only=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_steps_saves_and_restores_under_deterministic_algorithms(method, make):
    made = make(method, "conv4-64", "glyphs", deterministic=True)
    two_epochs(made)
    through_a_file(made.trainer)
    made.step(2)


def waits_for_gradients(method: str) -> bool:
    return method.partition("+")[2] in ("dm2", "dm2-temporal")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_steps_under_autocast(method, precision, make):
    if precision == "float16" and waits_for_gradients(method):
        with pytest.raises(UserError, match="gradients cannot wait"):
            make(method, "conv4-64", "glyphs", autocast=precision)
        return
    made = make(method, "conv4-64", "glyphs", deterministic=True, autocast=precision)
    two_epochs(made)
    through_a_file(made.trainer)
    made.step(2)


@pytest.mark.parametrize("precision", ["none", "bfloat16", "float16"])
@pytest.mark.parametrize("method", ["ms", "ms+obdsd", "proxyanchor+s2sd", "margin"])
def test_a_resnet_steps_saves_and_restores(method, precision, make):
    small = {"model": {"backbone": "torchvision:resnet18"}, "size": 64, "batch_size": 16}
    made = make(method, **small, deterministic=True, autocast=precision)
    two_epochs(made)
    through_a_file(made.trainer)
    made.step(2)


@pytest.mark.null
@pytest.mark.parametrize("method", METHODS)
def test_no_step_makes_the_host_wait(method, make):
    made = make(method, "conv4-64", "glyphs")
    two_epochs(made)
    torch.cuda.synchronize()
    with counted() as counts:
        made.step(2)
    assert counts.waits == 0, counts
    assert counts.launches > 50  # it counts at all
