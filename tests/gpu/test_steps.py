"""Every method takes steps on a GPU, saves and restores its state, and never makes the host wait."""

import io
import re

import pytest
import torch

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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_steps_under_autocast(method, precision, make):
    made = make(method, "conv4-64", "glyphs", deterministic=True, autocast=precision)
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
    assert counts.launches > 100
