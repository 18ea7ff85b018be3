"""Batches and rates: the checks see a batch that is not whole, and a loader that is too slow."""

import pytest
import torch

from dmlbench.data.loader import TrainingBatches
from dmlbench.selftest import conditions, feeding
from tests.selftest.conftest import broken

LEVELS, LABELS = "largest difference in grey levels", "labels that differ"


class Spoilt(TrainingBatches):
    """Batches of which those of loader processes are not as they were made."""

    def __init__(self, *args, data_workers=0, **kwargs):
        self.loaded = data_workers > 0
        super().__init__(*args, **kwargs)

    def epoch(self, epoch):
        for batch in super().epoch(epoch):
            if self.loaded:
                self.spoil(batch)
            yield batch


class OneLevel(Spoilt):
    def spoil(self, batch):
        batch.images[0, 0, 5, 5] += 1 / 255 / 0.229


class Unwritten(Spoilt):
    def spoil(self, batch):
        batch.images[3] = torch.nan


class OtherLabels(Spoilt):
    def spoil(self, batch):
        batch.labels.add_(1)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(feeding, "COMPARED", 2)
    monkeypatch.setattr(feeding, "IMAGES", 4)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("spoilt", "name"), [(OneLevel, LEVELS), (Unwritten, LEVELS), (OtherLabels, LABELS)])
def test_batches_that_are_not_whole(check, monkeypatch, spoilt, name):
    monkeypatch.setattr(feeding, "TrainingBatches", spoilt)
    assert broken(check("batches")) == {name}


@pytest.mark.usefixtures("small")
def test_batches_of_a_process_of_their_own(check):
    assert not broken(check("batches"))


@pytest.mark.parametrize(
    ("loaded", "waited", "failed"),
    [(1.25, 0.02, set()), (1.6, 0.3, set()), (2.5, 0.6, {"fraction of the bare rate"})],
)
def test_a_loader_that_keeps_up_and_one_that_does_not(check, monkeypatch, loaded, waited, failed):
    def turn(_, source):
        batches = list(source)
        assert len(batches) == feeding.STEPS["cpu"]
        train = 1.0 if batches[0] is batches[2] else loaded
        return {"train": train, "data": waited * train}

    monkeypatch.setattr(feeding, "_turn", turn)
    record = check("loader")
    assert broken(record) == failed
    figures = {figure.name: figure.value for figure in record.figures}
    assert figures["fraction of the bare rate"] == pytest.approx(1 / loaded)
    assert figures["from the loader"] == pytest.approx(112 * feeding.STEPS["cpu"] / loaded)
    assert figures["share of the time that waits for data"] == pytest.approx(waited)
    assert (
        record.note
        == f"ms, conv4-64, loader processes: 0; bounded by {'the network' if waited < 0.1 else 'the loader'}"
    )


def test_the_rates_of_real_steps(check, monkeypatch):
    monkeypatch.setattr(feeding, "STEPS", {"cpu": 3})
    monkeypatch.setattr(feeding, "FRACTION", 0.0)  # of a machine that others use
    monkeypatch.setattr(feeding, "ROUNDS", 1)
    record = check("loader")
    assert record.status == "pass"
    assert all(figure.value > 0 for figure in record.figures)


def test_a_step_that_does_not_fit_is_no_defect(check, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(feeding, "trainer_of", too_large)
    record = check("loader")
    assert record.status == "skipped"
    assert record.reason == "a step of conv4-64 with 112 images does not fit into the free memory of cpu"


def test_photographs_differ_and_decode_to_their_size():
    split = conditions.photographs(40)
    assert len(split.images) == len(split.labels) == 40
    assert split.images[39].shape == (3, 375, 500)
    assert torch.equal(split.images[1], split.images[33])
    assert not torch.equal(split.images[1], split.images[2])
