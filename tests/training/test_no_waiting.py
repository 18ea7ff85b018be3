"""No loss, distillation, teacher or step of ours makes the host wait for the device: seen on a CPU.

On CUDA each of these operations and methods copies something to the host, which waits until the device has worked off
its queue. (What PyTorch itself does on CUDA alone is not seen here: its GradScaler, which only float16 needs, reads
once a step whether gradients are finite.)
"""

from collections import Counter

import pytest
import torch

from dmlbench.data.loader import TrainingBatches
from dmlbench.specs.registry import Registry
from dmlbench.training.loop import train_epoch
from tests.operations import waits


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda values: values.sum().item(), "_local_scalar_dense"),
        (torch.Tensor.cpu, "cpu"),
        (lambda values: values.to("cpu"), "to"),
        (lambda values: values.to(device=torch.device("cpu")), "to"),
        (torch.Tensor.numpy, "numpy"),
        (torch.Tensor.tolist, "tolist"),
        (max, "_local_scalar_dense"),
        (lambda values: bool((values > 0).any()), "_local_scalar_dense"),
        (lambda values: values[values > 0], "index"),
        (torch.nonzero, "nonzero"),
        (lambda values: torch.linalg.solve(torch.eye(3), values), "_linalg_check_errors"),
    ],
)
def test_what_waits_is_seen(call, name):
    assert name in waits(lambda: call(torch.ones(3)))


FIRST = ("contrastive", "triplet", "margin", "ms", "proxyanchor")
# Every loss, and every modifier on the first five: a modifier sees the loss's value alone.
NAMES = [name for name in Registry().names() if "+" not in name or name.partition("+")[0] in FIRST]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_step_never_waits(name, make_trainer, batch, mining):
    trainer = make_trainer(name)
    trainer.step(batch, 0, mining)
    trainer.end_epoch()
    assert waits(lambda: trainer.step(batch, 1, mining)) == Counter()


def test_an_epoch_waits_at_its_end_however_long_it_is(make_trainer, make_protocol, split):
    def waits_of(batch_size):
        protocol, trainer = make_protocol(batch_size=batch_size), make_trainer("ms+obdsd", batch_size=batch_size)
        with TrainingBatches(split, protocol, 0) as batches:
            found = waits(lambda: train_epoch(trainer, batches, 1, 0, torch.device("cpu")))
        del found["to"]  # a batch's way to its device, which is the CPU here
        return batches.steps, found

    (many, one), (few, other) = waits_of(4), waits_of(12)
    assert many > few
    assert one == other
