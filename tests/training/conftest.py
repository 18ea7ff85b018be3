"""A network, images and batches so small that an epoch takes milliseconds."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from dmlbench.data.images import Split
from dmlbench.data.loader import Batch, TrainingBatches
from dmlbench.modifiers import StepContext
from dmlbench.seeding import stream_seed
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec, ProtocolSpec, TrainingSpec
from dmlbench.specs.registry import MethodSettings, Registry
from dmlbench.training.build import TrainingSet, build_seeded_model, build_trainer
from dmlbench.training.loop import train_epoch
from dmlbench.training.trainer import Trainer

CPU = torch.device("cpu")
CLASSES, IMAGES = 4, 24


def step_context(batch: Batch, epoch: int = 0, mining: torch.Tensor | None = None, models=()) -> StepContext:
    """What a modifier is told of a step of 4 epochs."""
    return StepContext(
        images=batch.images, labels=batch.labels, indices=batch.indices, epoch=epoch, epochs=4, models=models,
        mining=torch.Generator().get_state() if mining is None else mining, clock=lambda _: nullcontext(),
        precision=nullcontext, others=batch.others,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _threads():
    """One thread, as in the protocol: two add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def split() -> Split:
    """Four classes of six noisy 16 px images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(6)
    prototypes = torch.randint(0, 200, (CLASSES, 1, 16, 16), generator=generator)
    noise = torch.randint(0, 56, (len(labels), 1, 16, 16), generator=generator)
    return Split((prototypes[labels] + noise).to(torch.uint8), labels, tuple("abcd"))


@pytest.fixture
def make_protocol() -> Callable[..., ProtocolSpec]:
    """The protocol of these tests; keywords override its training section."""

    def make(**training) -> ProtocolSpec:
        return ProtocolSpec(
            name="tiny",
            title="Tiny",
            model=ModelSpec(backbone="conv4", embedding_dim=8, kwargs={"width": 8}),
            input=InputSpec(channels=1, size=16, resize=16, mean=(0.5,), std=(0.25,), augmentation="none", flip=True),
            training=TrainingSpec(**({"epochs": 4, "batch_size": 8, "learning_rate": 0.01} | training)),
        )

    return make


@pytest.fixture
def make_trainer(make_protocol) -> Callable[..., Trainer]:
    """A trainer by method name; `lambda_` is the distillation's weight, keywords override the training section.

    `settings` are the distillation's, `model` overrides the network's section.
    """

    def make(
        name: str = "ms",
        lambda_: float | None = None,
        *,
        seed: int = 0,
        settings=(),
        model=(),
        methods_dir=None,
        **training,
    ) -> Trainer:
        protocol = make_protocol(**training)
        protocol = protocol.model_copy(update={"model": protocol.model.model_copy(update=dict(model))})
        values = dict(settings) | ({} if lambda_ is None else {"lambda": lambda_})
        method = Registry(methods_dir).resolve(name, "glyphs", protocol.name, MethodSettings(distillation=values))
        model = build_seeded_model(protocol, seed, CPU)
        torch.manual_seed(stream_seed(seed, 0, "loss"))
        return build_trainer(method, protocol, model, TrainingSet(CLASSES, IMAGES), CPU, seed=seed)

    return make


@pytest.fixture
def train(split, make_protocol) -> Callable[..., list[dict]]:
    """Train epochs as a cell does, and give their rows."""

    def run(trainer: Trainer, epochs: range, seed: int = 0) -> list[dict]:
        with TrainingBatches(split, make_protocol(), seed) as batches:
            return [train_epoch(trainer, batches, epoch, seed, CPU) for epoch in epochs]

    return run


@pytest.fixture
def batch(split) -> Batch:
    """Eight images of four classes, normalised, with a second view of each."""
    chosen = torch.tensor([0, 1, 6, 7, 12, 13, 18, 19])
    images = (split.images[chosen].float() / 255 - 0.5) / 0.25
    return Batch(images, split.labels[chosen], chosen, (images.flip(-1),))


@pytest.fixture
def mining() -> torch.Generator:
    return torch.Generator().manual_seed(7)
