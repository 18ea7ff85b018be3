"""What a GPU computes equals what a CPU computes."""

import pytest
import torch

from dmlbench.data.images import Split
from dmlbench.data.loader import TrainingBatches
from dmlbench.evaluation import clustering_metrics, geometry_metrics, retrieval_metrics
from dmlbench.evaluation.k_means import k_means
from dmlbench.selftest import agreement
from dmlbench.selftest.conditions import Conditions
from dmlbench.specs.protocol import load_protocol
from dmlbench.training.loop import train_epoch

GPU = torch.device("cuda:0")
# Methods whose steps draw nothing: a GPU's stream is another than a CPU's.
METHODS = ("ms", "ms+obdsd", "ms+psd-mem", "ms+xbm", "ms+ema", "proxyanchor+s2sd", "supcon", "softtriple", "circle")
pytestmark = pytest.mark.values


def losses(make, method: str, device: str) -> torch.Tensor:
    made = make(method, "conv4-64", "glyphs", batch_size=28, device=device)
    found = []
    for epoch in range(3):
        found += [torch.stack(made.trainer.step(batch, epoch, made.generator)).cpu() for batch in made.batches[:2]]
        made.trainer.end_epoch()
    return torch.cat(found)


@pytest.mark.parametrize("method", METHODS)
def test_losses_of_six_steps_are_those_of_a_cpu(method, make):
    ours, host = losses(make, method, "cuda:0"), losses(make, method, "cpu")
    torch.testing.assert_close(ours, host, rtol=2e-3, atol=1e-4)


@pytest.fixture
def split() -> Split:
    images = torch.randint(256, (64, 1, 40, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.arange(64) % 8, tuple("abcdefgh"))


@pytest.mark.parametrize("augmentation", ["crop", "affine", "none"])
def test_batches_are_those_of_a_cpu(augmentation, split):
    protocol = load_protocol(
        "conv4-64", "glyphs", {"input": {"augmentation": augmentation}, "training": {"batch_size": 16}}
    )
    with TrainingBatches(split, protocol, 0, GPU) as ours, TrainingBatches(split, protocol, 0) as host:
        for got, want in zip(ours.epoch(1), host.epoch(1), strict=True):
            assert got.images.is_cuda
            torch.testing.assert_close(
                got.images.cpu(), want.images, rtol=0, atol=1e-6
            )  # a grey level is .004 at least
            assert torch.equal(got.labels.cpu(), want.labels)
            assert torch.equal(got.indices.cpu(), want.indices)


@pytest.fixture
def embedded() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 20
    embeddings = torch.randn(20, 16, generator=generator)[labels] + 1.2 * torch.randn(400, 16, generator=generator)
    embeddings[5] = embeddings[9]  # a duplicate with another label
    return embeddings, labels


@pytest.mark.filterwarnings("ignore:faiss cannot search")  # on the simulated GPU, which its own kernels do not know
@pytest.mark.parametrize("backend", ["torch", "auto", "faiss"])
def test_retrieval_is_that_of_a_cpu(embedded, backend):
    embeddings, labels = embedded
    host = retrieval_metrics(embeddings, labels, backend="torch")
    assert retrieval_metrics(embeddings.to(GPU), labels.to(GPU), backend=backend) == pytest.approx(host, abs=1e-9)


def test_a_gallery_is_searched_as_on_a_cpu(embedded):
    embeddings, labels = embedded
    gallery = embeddings[200:].to(GPU), labels[200:].to(GPU)
    asked = retrieval_metrics(embeddings[:200].to(GPU), labels[:200].to(GPU), gallery=gallery)
    host = retrieval_metrics(embeddings[:200], labels[:200], backend="torch", gallery=(embeddings[200:], labels[200:]))
    assert asked == pytest.approx(host, abs=1e-9)


def test_clusters_and_geometry_are_those_of_a_cpu(embedded, monkeypatch):
    embeddings, labels = embedded
    host = clustering_metrics(embeddings, labels, runs=5)
    monkeypatch.setattr("sklearn.cluster.KMeans", lambda *_, **__: pytest.fail("clustered on the CPU"))
    assert geometry_metrics(embeddings.to(GPU), labels.to(GPU)) == pytest.approx(
        geometry_metrics(embeddings, labels), abs=1e-5
    )
    ours = clustering_metrics(embeddings.to(GPU), labels.to(GPU), runs=5)
    assert ours["nmi"] == pytest.approx(host["nmi"], abs=0.05)
    torch.use_deterministic_algorithms(True)
    try:
        assert k_means(embeddings.to(GPU), 20, 0, careful=True).unique().numel() == 20
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_selftest_checks_metrics_and_clusters(tmp_path, monkeypatch):
    conditions = Conditions(GPU, 0.0, tmp_path)
    figures = {figure.name: figure for figure in agreement.metrics(conditions).figures}
    assert all(figure.holds for figure in figures.values())
    # From centres that are no points of the classes, k-means ends with other clusters.
    monkeypatch.setattr("dmlbench.evaluation.k_means._spread", lambda points, k, _: points[:k].roll(1, dims=1))
    broken = {figure.name for figure in agreement.metrics(conditions).figures if not figure.holds}
    assert broken == {"nmi", "ami"}


@pytest.mark.parametrize("method", ["margin+obdsd", "ms+obdsd-mem"])
def test_a_resumed_training_gives_the_same_bits(method, make, split):
    def trained(stops: bool) -> list[float]:
        made = make(method, "conv4-64", "glyphs", batch_size=16)
        found = []
        for epoch in range(3):
            if stops and epoch == 2:
                state = made.trainer.state()
                made = make(method, "conv4-64", "glyphs", batch_size=16)
                made.trainer.restore(state)
            with made.trainer.batches(split, made.protocol, 0) as batches:
                found.append(train_epoch(made.trainer, batches, epoch, 0, GPU)["train/loss"])
        return found

    assert trained(stops=True) == trained(stops=False)
