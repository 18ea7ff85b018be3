"""Trains a few steps as one of several processes, or as one alone, for `test_ranks.py`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dmlbench.data.images import Split
from dmlbench.data.loader import Batch
from dmlbench.seeding import stream_seed
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec, ProtocolSpec, TrainingSpec
from dmlbench.specs.registry import MethodSettings, Registry
from dmlbench.training import ranks as module
from dmlbench.training.build import TrainingSet, build_seeded_model, build_trainer
from dmlbench.training.ranks import ALONE, Ranks
from dmlbench.training.trainer import Trainer

CPU = torch.device("cpu")
EPOCHS, CLASSES, PER_CLASS = 2, 4, 6
PLUGIN = '''
import torch
from torch.nn.functional import mse_loss
from dmlbench.modifiers import Modifier

class Flips(Modifier):
    """Draws embeddings of mirrored images to their own, and weights to where they began: both have a gradient."""

    def build(self, context):
        self.start = [own.detach().clone() for own in context.base.model.parameters()]
        return [context.base]

    def loss(self, outputs, context):
        mirrored = context.models[0](context.images.flip(-1))
        apart = sum(mse_loss(own, start) for own, start in zip(context.models[0].parameters(), self.start))
        return [self.lambda_ * (mse_loss(mirrored, outputs[0].embeddings.detach()) + apart)]
'''
YAML = """
name: flips
kind: modifier
title: Flips
plugin: flips.py
class: Flips
paper: null
parameters:
  lambda: {value: 1.0, published: false, source: ours}
"""
# Modifier settings that let it act in six steps of eight images.
METHODS: dict[str, dict[str, Any]] = {
    "ms": {},
    "proxyanchor": {},
    "margin": {},
    "ms+obdsd": {"lambda": 5.0},
    "ms+psd-ema": {},
    "ms+obdsd-mem": {"lambda": 5.0},
    "ms+xbm": {"size": 20, "start": 1},
    "proxyanchor+s2sd": {"dimensions": "16,12", "feature_delay": 2},
    "contrastive+dm2": {},
    "ms+flips": {},
}


def small_protocol(**training: Any) -> ProtocolSpec:
    """Frozen BatchNorm, and SGD: Adam makes steps of the rate's size out of what rounding leaves of a gradient of 0."""
    return ProtocolSpec(
        name="tiny",
        title="Tiny",
        model=ModelSpec(backbone="conv4", embedding_dim=8, kwargs={"width": 8}, freeze_batchnorm=True),
        input=InputSpec(channels=1, size=16, resize=16, mean=(0.5,), std=(0.25,), augmentation="none", flip=True),
        training=TrainingSpec(
            **({"epochs": EPOCHS, "batch_size": 8, "learning_rate": 0.1, "optimizer": "sgd"} | training)
        ),
    )


def small_split() -> Split:
    """Noisy images around a prototype of each class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    prototypes = torch.randint(0, 200, (CLASSES, 1, 16, 16), generator=generator)
    noise = torch.randint(0, 56, (len(labels), 1, 16, 16), generator=generator)
    return Split((prototypes[labels] + noise).to(torch.uint8), labels, tuple("abcd"))


@contextmanager
def double() -> Iterator[None]:
    """Compute in float64, also where the code asks for float32, and in one thread."""
    threads, own = torch.get_num_threads(), Tensor.float
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double
    try:
        yield
    finally:
        Tensor.float = own
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def in_double(batch: Batch) -> Batch:
    return batch._replace(images=batch.images.double(), others=tuple(own.double() for own in batch.others))


def trained(name: str, methods_dir: Path, ranks: Ranks = ALONE, **training: Any) -> dict[str, Tensor]:
    """Losses of all steps, and weights after them of all that is learned, in float64."""
    with double():
        return _trained(name, methods_dir, ranks, **training)


def trainer_of(name: str, methods_dir: Path, ranks: Ranks, protocol: ProtocolSpec) -> Trainer:
    method = Registry(methods_dir).resolve(name, "glyphs", protocol.name, MethodSettings(distillation=METHODS[name]))
    model = build_seeded_model(protocol, 0, CPU)
    torch.manual_seed(stream_seed(0, 0, "loss"))
    return build_trainer(method, protocol, model, TrainingSet(CLASSES, CLASSES * PER_CLASS), CPU, ranks=ranks)


def first_batch(name: str, methods_dir: Path, ranks: Ranks) -> Batch:
    protocol = small_protocol()
    with trainer_of(name, methods_dir, ranks, protocol).batches(small_split(), protocol, 0) as batches:
        return next(batches.epoch(0))


def _trained(name: str, methods_dir: Path, ranks: Ranks, **training: Any) -> dict[str, Tensor]:
    protocol = small_protocol(**training)
    trainer = trainer_of(name, methods_dir, ranks, protocol)
    losses = []
    with trainer.batches(small_split(), protocol, 0) as batches:
        for epoch in range(EPOCHS):
            mining = torch.Generator().manual_seed(epoch)
            trainer.train()
            losses += [torch.stack(trainer.step(in_double(batch), epoch, mining)) for batch in batches.epoch(epoch)]
            trainer.end_epoch()
    found = {"losses": torch.stack(losses)}
    for number, network in enumerate(trainer.networks):
        groups = network.optimizer.param_groups
        found |= {
            f"{number} {group.get('name', 'modifier')} {place} {index}": own.detach().clone()
            for place, group in enumerate(groups)
            for index, own in enumerate(group["params"])
        }
    return found


MUTATIONS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "sums what every rank computes": lambda: setattr(module.Ranks, "average", _summed),
    "forgets the other ranks' parts": lambda: setattr(module._Gather, "backward", staticmethod(_once)),
}


def _summed(ranks: Ranks, gradients: list[Tensor]) -> None:
    for gradient in gradients:
        dist.all_reduce(gradient)


def _once(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return gradient[ctx.rows], None, None


def train_as(rank: int, size: int, folder: Path, names: list[str], training: dict[str, Any], mutation: str) -> None:  # noqa: PLR0917 - of a process
    """Train methods one after another as one of several processes; save what `trained` gives for each."""
    MUTATIONS[mutation]()
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    found = {name: trained(name, folder.parent / "methods", Ranks(rank, size), **training) for name in names}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
    sys.stdout.flush()
