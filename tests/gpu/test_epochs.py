"""Whole epochs on a GPU: where the host waits, and that memory does not grow."""

import pytest
import torch

from dmlbench.data import loader
from dmlbench.data.images import Split
from dmlbench.data.loader import EvaluationBatches
from dmlbench.training.loop import train_epoch
from tests.gpu.nullgpu.kernels import counted

GPU = torch.device("cuda:0")


class Files:
    """Images that are made when asked for, as files are decoded."""

    def __init__(self, count: int, size: int) -> None:
        self._images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator())

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._images[index].clone()


def images(count: int, size: int = 80) -> Split:
    return Split(Files(count, size), torch.arange(count) % 8, tuple("abcdefgh"))


@pytest.fixture
def made(make):
    return make("ms+obdsd", size=64, batch_size=16, model={"backbone": "torchvision:resnet18"})


def one_epoch(made, split: Split, epoch: int) -> None:
    with made.trainer.batches(split, made.protocol, 0) as batches:
        train_epoch(made.trainer, batches, epoch, 0, GPU)


@pytest.mark.null
def test_the_host_waits_at_the_end_of_an_epoch_alone(made):
    """The clock waits once, and the losses are read: as often after 12 steps as after 3."""
    waits = []
    for epoch, count in enumerate((48, 48, 192)):
        with counted() as counts:
            one_epoch(made, images(count), epoch)
        waits.append(counts.waits)
    assert counts.pageable_copies_to_device == 0  # mean and deviation of the pixels were copied in the first epoch
    assert waits[1] == waits[2] <= 8


@torch.no_grad()
def embed(made, batches: EvaluationBatches) -> None:
    """Without a look at the embeddings, which the null GPU leaves as they were in memory."""
    made.trainer.model.eval()
    for own in batches:
        made.trainer.model(own)


def reserved_over_epochs(made, epochs: int) -> list[int]:
    reserved = []
    test = EvaluationBatches(images(64), made.protocol, device=GPU)
    with made.trainer.batches(images(64), made.protocol, 0) as batches:
        for epoch in range(epochs):
            train_epoch(made.trainer, batches, epoch, 0, GPU)
            embed(made, test)
            reserved.append(torch.cuda.memory_reserved())
    return reserved


@pytest.mark.null  # to the byte: elsewhere the allocator may take another block by chance, and selftest has a bound
def test_reserved_memory_does_not_grow_over_epochs(made):
    reserved = reserved_over_epochs(made, 8)
    assert reserved[-1] == reserved[2]


@pytest.mark.null
def test_a_new_stream_an_epoch_would_make_it_grow(made, monkeypatch):
    monkeypatch.setattr(loader, "_side_stream", torch.cuda.Stream)
    reserved = reserved_over_epochs(made, 8)
    assert reserved[-1] > reserved[2]


@pytest.mark.null
def test_kept_test_images_are_page_locked_once(made):
    split = images(256)
    size = len(split.labels) * 3 * 64**2
    with counted() as before:
        evaluator = EvaluationBatches(split, made.protocol, device=GPU)
    for _ in range(2):
        with counted() as counts:
            embed(made, evaluator)
    assert counts.pageable_copies_to_device == 0
    assert counts.page_locked_bytes - before.page_locked_bytes < 1.5 * size
