"""retrieval_metrics with torch, with faiss, the whole similarity matrix sorted, and those of two other libraries.

    pytest -m benchmark tests/benchmarks/test_retrieval_speed.py -s

The largest set has the size of Stanford Online Products' test half; its full matrix would take 15 GB, so the peer is
pytorch-metric-learning's AccuracyCalculator.
"""

import ctypes
import gc
import os
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch.nn.functional import normalize
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRPrecision

from dmlbench.evaluation import retrieval_metrics
from dmlbench.results.environment import peak_memory_mb, reset_peak_memory
from tests.benchmarks.by_turns import time_by_turns

pytestmark = pytest.mark.benchmark
OURS = "ours, faiss (what auto takes here)"


def make_set(count, dimension, classes, noise):
    """Noisy classes of equal size, in mixed order."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dimension, generator=generator)
    return normalize(centres[labels] + noise * torch.randn(count, dimension, generator=generator)), labels


def sort_everything(embeddings, labels):
    """The textbook way: the whole matrix, fully sorted; ties as they fall."""
    similarities = (embeddings @ embeddings.T).fill_diagonal_(-2)
    relevant = (labels[similarities.argsort(dim=1, descending=True)] == labels[:, None])[:, :-1]
    r = relevant.sum(dim=1)
    precision = relevant.cumsum(dim=1) / torch.arange(1, relevant.shape[1] + 1)
    near = torch.arange(relevant.shape[1]) < r[:, None]
    map_at_r = ((precision * relevant * near).sum(dim=1) / r).mean()
    return {"recall_at_1": relevant[:, 0].float().mean().item(), "map_at_r": map_at_r.item()}


def extra_memory(call):
    """MiB that a call takes beyond what the process holds, at its height (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free but still held would be used anew and not be seen
    reset_peak_memory()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    call()
    return max(0.0, peak_memory_mb("cpu")["host"] - before)


@pytest.mark.parametrize(("count", "dimension", "used"), [(2_000, 64, 1), (5_000, 128, 2)])
def test_backends(count, dimension, used, threads, row):
    embeddings, labels = make_set(count, dimension, 100, noise=2)
    candidates = {
        backend: lambda backend=backend: retrieval_metrics(embeddings, labels, backend=backend)
        for backend in ("torch", "faiss")
    }
    candidates["sorted matrix"] = lambda: sort_everything(embeddings, labels)
    threads(used)
    timings = time_by_turns(candidates, rounds=20 if count == 2_000 else 5, warm_up=1)
    for name in candidates:
        what = {"embeddings": f"{count} x {dimension}", "threads": str(used), "by": name}
        ratio = timings.ratio_cells(name, "sorted matrix")
        row("Retrieval metrics, small sets", **what, seconds=timings.median(name), **ratio)
    assert timings.ratio("torch", "sorted matrix") < 0.5


@pytest.mark.parametrize("count", [1_000, 2_000])
def test_torchmetrics(count, threads, row):
    """Recall at 1 and 8 and R-precision as its retrieval metrics of all pairs, which take them query by query."""
    embeddings, labels = make_set(count, 128, 100, noise=2)
    pairs = ~torch.eye(count, dtype=torch.bool)
    queries = torch.arange(count)[:, None].expand(count, count)[pairs]

    def theirs():
        similarities, relevant = (embeddings @ embeddings.T)[pairs], (labels[:, None] == labels)[pairs]
        found = []
        for metric in (RetrievalHitRate(top_k=1), RetrievalHitRate(top_k=8), RetrievalRPrecision()):
            metric.update(similarities, relevant, queries)
            found.append(float(metric.compute()))
        return found

    candidates = {"ours, and MAP@R": lambda: retrieval_metrics(embeddings, labels), "torchmetrics": theirs}
    threads(2)
    ours = retrieval_metrics(embeddings, labels)
    assert [ours[name] for name in ("recall_at_1", "recall_at_8", "r_precision")] == pytest.approx(theirs(), abs=1e-6)
    memory = {name: extra_memory(call) for name, call in candidates.items()}
    timings = time_by_turns(candidates, rounds=3, warm_up=0)
    for name in candidates:
        ratio, extra = timings.ratio_cells(name, "torchmetrics", 3), f"{memory[name]:.0f}"
        what = {"embeddings": f"{count:,} x 128", "by": name, "seconds": timings.median(name)} | ratio
        row("Retrieval metrics against torchmetrics, two threads", **what, **{"extra memory (MiB)": extra})


@pytest.mark.parametrize("noise", [1.4, 2.0])
def test_the_size_of_stanford_online_products(noise, threads, row):
    """Of recall at 1, 10, 100 and 1000, MAP@R and R-precision; PML's calculator does precision at 1 and the latter."""
    embeddings, labels = make_set(60_502, 128, 11_316, noise)
    arrays = embeddings.numpy(), labels.numpy()
    wanted = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=wanted, k="max_bin_count")

    def ours(backend):
        return retrieval_metrics(embeddings, labels, (1, 10, 100, 1000), backend)

    candidates = {
        OURS: lambda: ours("auto"),
        "ours, torch": lambda: ours("torch"),
        "PML, doing less": lambda: calculator.get_accuracy(*arrays),
    }
    threads(2)
    found = round(100 * ours("auto")["recall_at_1"])  # and whatever is imported or built once
    memory = {name: extra_memory(call) for name, call in candidates.items()}
    timings = time_by_turns(candidates, rounds=3, warm_up=0)
    for name in candidates:
        what = {"R@1 of the set (%)": str(found), "by": name, "seconds": f"{timings.median(name):.1f}"}
        ratio, extra = timings.ratio_cells(name, "PML, doing less"), f"{memory[name]:.0f}"
        row("Retrieval metrics, 60,502 x 128, two threads", **what, **ratio, **{"extra memory (MiB)": extra})
    assert memory[OURS] < 1500
    if noise < 2:  # at which embeddings are worse than an untrained network's
        assert timings.ratio(OURS, "PML, doing less") <= 0.7
