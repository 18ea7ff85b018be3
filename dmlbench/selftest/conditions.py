"""Under which conditions a check runs, and what several checks train and on which images."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dmlbench.data.catalogue import dataset_info
from dmlbench.data.images import EncodedImages, Split, load_dataset
from dmlbench.data.ready import dataset_spec, prepare
from dmlbench.runner.matrix import data_folder
from dmlbench.seeding import stream_seed
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.specs.registry import Registry
from dmlbench.training.build import TrainingSet, build_seeded_model, build_trainer
from dmlbench.training.device import prepare as prepare_process
from dmlbench.training.trainer import Trainer

CPU = torch.device("cpu")
SEED = 0
SMALL, LARGE = "conv4-64", "resnet50-128"
DRAWN = "glyphs"
PHOTOGRAPHS = 32  # that differ; a split repeats them
PHOTOGRAPH = (500, 375)  # about CUB's
CLASSES = 56


@dataclass(frozen=True)
class Conditions:
    """What a check is given.

    Attributes:
        seconds: How long it may measure, where more time gives a better figure.
        scratch: A folder that is removed after the self-test.
    """

    device: torch.device
    seconds: float
    scratch: Path

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def usual(self, **training: Any) -> tuple[ProtocolSpec, Split]:  # noqa: ANN401 - settings of the protocol
        """What people train on the device: ResNet-50 on photographs on a GPU, four convolutions on glyphs on a CPU.

        Keywords override the protocol's training section. Weights are random, so nothing is downloaded.
        """
        settings = {"training": training, "model": {"weights": None}}
        if not self.on_cuda:
            return load_protocol(SMALL, DRAWN, settings), glyphs()[0]
        protocol = load_protocol(LARGE, DRAWN, settings)
        return protocol, photographs(protocol.training.batch_size * (protocol.training.steps_per_epoch or 1))


class SkipCheckError(Exception):
    """The check says nothing on this device; the message is why."""


@contextmanager
def fitting(protocol: ProtocolSpec, device: torch.device) -> Iterator[None]:
    """Skip the check where a step of the protocol does not fit into the device's memory: that is no defect."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        what = f"a step of {protocol.name} with {protocol.training.batch_size} images"
        raise SkipCheckError(f"{what} does not fit into the free memory of {device}") from error


def glyphs() -> tuple[Split, Split]:
    """Training and test images of the embedded dataset, drawn once on a machine."""
    folder = data_folder(None)
    spec = dataset_spec(dataset_info(DRAWN), folder, lambda _: None)
    prepare(spec, folder, lambda _: None)
    dataset = load_dataset(spec, folder, lambda _: None)
    return dataset.train, dataset.test


def photographs(count: int) -> Split:
    """JPEG files of so many images with the size and the detail of photographs, in memory; any pixels do."""
    files = [torch.frombuffer(bytearray(_photograph(number)), dtype=torch.uint8) for number in range(PHOTOGRAPHS)]
    chosen = [files[number % PHOTOGRAPHS] for number in range(count)]
    ends = np.cumsum([len(file) for file in chosen])
    spans = np.stack((np.concatenate(([0], ends[:-1])), ends), axis=1)
    names = tuple(Path(f"photograph {number}") for number in range(count))
    labels = torch.arange(count) % CLASSES
    return Split(EncodedImages(names, torch.cat(chosen), spans), labels, tuple(map(str, range(CLASSES))))


@cache
def _photograph(number: int) -> bytes:
    """A JPEG file: smooth shapes under fine noise, which decode as slowly as a photograph does."""
    rng, (width, height) = np.random.default_rng(number), PHOTOGRAPH
    shapes = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8))
    smooth = np.asarray(shapes.resize(PHOTOGRAPH, Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + rng.integers(-12, 13, smooth.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def trainer_of(method: str, protocol: ProtocolSpec, size: TrainingSet, device: torch.device) -> Trainer:
    """A method's trainer as a cell builds it, with the process set up as the protocol says."""
    prepare_process(protocol.training, device)
    resolved = Registry().resolve(method, DRAWN, protocol.name, family=protocol.family)
    model = build_seeded_model(protocol, SEED, device)
    torch.manual_seed(stream_seed(SEED, 0, "loss"))
    return build_trainer(resolved, protocol, model, size, device, seed=SEED)


def size_of(split: Split) -> TrainingSet:
    """How much a split holds."""
    return TrainingSet(len(split.class_names), len(split.labels))
