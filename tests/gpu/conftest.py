"""Tests on a GPU: a real one, or one of `run.py`'s. Without any they are not collected."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dmlbench.data.loader import Batch
from dmlbench.overhead.timing import SYNTHETIC_SET, synthetic_batches
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.specs.registry import MethodSettings, Registry
from dmlbench.training.build import build_seeded_model, build_trainer
from dmlbench.training.device import prepare
from dmlbench.training.trainer import Trainer

SIMULATED = os.environ.get("DMLBENCH_NULL_GPU", "")  # kernels, values, or nothing on a real GPU


# Elsewhere they are no tests that were left out: hundreds of lines would say so.
collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = {"null": SIMULATED == "kernels", "values": SIMULATED != "kernels"}
    for item in items:
        if "tests/gpu/" not in item.path.as_posix():
            continue
        for name, there in wanted.items():
            if name in item.keywords and not there:
                reason = "on the null GPU alone, which counts" if name == "null" else "the null GPU computes nothing"
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(repr=False)  # a tensor of the null GPU, printed, is garbage that takes minutes
class Made:
    """A trainer with batches of its protocol's shape on the GPU."""

    trainer: Trainer
    batches: list[Batch]
    generator: torch.Generator
    protocol: ProtocolSpec

    def step(self, epoch: int, number: int = 0) -> list[torch.Tensor]:
        return list(self.trainer.step(self.batches[number], epoch, self.generator))


@pytest.fixture
def make() -> Callable[..., Made]:
    """Build a trainer; keywords override the protocol's training section."""

    def build(
        method: str, protocol: str = "resnet50-128", dataset: str = "cub", *, device: str = "cuda:0",
        model: dict[str, Any] | None = None, size: int | None = None, **training: Any,
    ) -> Made:  # fmt: skip
        settings: dict[str, dict[str, Any]] = {"model": {"weights": None, **(model or {})}, "training": training}
        if size:
            settings["input"] = {"size": size, "resize": size}
        made = load_protocol(protocol, dataset, settings)
        place = torch.device(device)
        prepare(made.training, place)
        spec = Registry().resolve(method, dataset, made.name, MethodSettings({}, {}))
        trainer = build_trainer(spec, made, build_seeded_model(made, 0, place), SYNTHETIC_SET, place, seed=0)
        trainer.train()
        generator = torch.Generator(place).manual_seed(0)
        return Made(trainer, synthetic_batches(made, place, trainer.views), generator, made)

    yield build
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _emptied():
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-launches", action="store_true", help="write tests/gpu/launches.csv anew")
