"""No loss, distillation, teacher or step of ours makes the host wait for the device: seen on a CPU.

On CUDA each of these operations and methods copies something to the host, which waits until the device has worked off
its queue. (What PyTorch itself does on CUDA alone is not seen here: its GradScaler, which only float16 needs, reads
once a step whether gradients are finite.)
"""

from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dmlbench.data.loader import TrainingBatches
from dmlbench.specs.registry import Registry
from dmlbench.training.loop import train_epoch

READING = {
    "_local_scalar_dense", "_linalg_check_errors", "bincount", "equal", "histc", "is_nonzero", "masked_select",
    "multinomial", "nonzero", "repeat_interleave", "unique_consecutive", "unique_dim", "_unique", "_unique2",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


METHODS = {"cpu", "item", "numpy", "tolist", "__array__", "__bool__", "__float__", "__int__", "__index__"}


class Copies(TorchFunctionMode):
    """Counts the methods that copy to the host; of a tensor that is there already they leave no operation to see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        places = [str(part) for part in (*args[1:], *(kwargs or {}).values()) if isinstance(part, str | torch.device)]
        if name in METHODS or (name == "to" and any(place.startswith("cpu") for place in places)):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class Waits(TorchDispatchMode):
    """Counts the operations whose course depends on values, by name; indexing by a mask looks for its true places."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READING or (name in INDEXING and any(self._is_mask(part) for part in args[1])):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _is_mask(part) -> bool:
        return part is not None and part.dtype in (torch.bool, torch.uint8)


def seen(call) -> Counter:
    with Copies() as copies, Waits() as waits:
        call()
    return copies.seen + waits.seen


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda values: values.sum().item(), "_local_scalar_dense"),
        (torch.Tensor.cpu, "cpu"),
        (lambda values: values.to("cpu"), "to"),
        (lambda values: values.to(device=torch.device("cpu")), "to"),
        (torch.Tensor.numpy, "numpy"),
        (torch.Tensor.tolist, "tolist"),
        (max, "__bool__"),
        (lambda values: bool((values > 0).any()), "_local_scalar_dense"),
        (lambda values: values[values > 0], "index"),
        (torch.nonzero, "nonzero"),
        (lambda values: torch.linalg.solve(torch.eye(3), values), "_linalg_check_errors"),
    ],
)
def test_what_waits_is_seen(call, name):
    assert name in seen(lambda: call(torch.ones(3)))


FIRST = ("contrastive", "triplet", "margin", "ms", "proxyanchor")
# Every loss, and every modifier on the first five: a modifier sees the loss's value alone.
NAMES = [name for name in Registry().names() if "+" not in name or name.partition("+")[0] in FIRST]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_step_never_waits(name, make_trainer, batch, mining):
    trainer = make_trainer(name)
    trainer.step(batch, 0, mining)
    trainer.end_epoch()
    assert seen(lambda: trainer.step(batch, 1, mining)) == Counter()


def test_an_epoch_waits_at_its_end_however_long_it_is(make_trainer, make_protocol, split):
    def waits(batch_size):
        protocol, trainer = make_protocol(batch_size=batch_size), make_trainer("ms+obdsd", batch_size=batch_size)
        with TrainingBatches(split, protocol, 0) as batches:
            found = seen(lambda: train_epoch(trainer, batches, 1, 0, torch.device("cpu")))
        del found["to"]  # a batch's way to its device, which is the CPU here
        return batches.steps, found

    (many, one), (few, other) = waits(4), waits(12)
    assert many > few
    assert one == other
