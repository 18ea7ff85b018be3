"""retrieval_metrics with torch, with faiss, and the whole similarity matrix sorted, 128 dimensions.

    pytest -m benchmark tests/benchmarks/test_retrieval_speed.py -s

The largest set has the size of Stanford Online Products' test half; its full matrix would take 15 GB and is left
out. Every training epoch of a small protocol ends in the first set: it may take 0.15 s on one thread.
"""

import pytest
import torch
from by_turns import time_by_turns
from torch.nn.functional import normalize

from dmlbench.evaluation import retrieval_metrics

pytestmark = pytest.mark.benchmark


def make_set(count, dimension, classes):
    """Noisy classes of equal size, in mixed order: about one query in ten finds its class first."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dimension, generator=generator)
    return normalize(centres[labels] + 2 * torch.randn(count, dimension, generator=generator)), labels


def sort_everything(embeddings, labels):
    """The textbook way: the whole matrix, fully sorted; ties as they fall."""
    similarities = (embeddings @ embeddings.T).fill_diagonal_(-2)
    relevant = (labels[similarities.argsort(dim=1, descending=True)] == labels[:, None])[:, :-1]
    r = relevant.sum(dim=1)
    precision = relevant.cumsum(dim=1) / torch.arange(1, relevant.shape[1] + 1)
    near = torch.arange(relevant.shape[1]) < r[:, None]
    map_at_r = ((precision * relevant * near).sum(dim=1) / r).mean()
    return {"recall_at_1": relevant[:, 0].float().mean().item(), "map_at_r": map_at_r.item()}


@pytest.mark.parametrize(
    ("count", "dimension", "classes", "threads", "rounds"),
    [(2_000, 64, 100, 1, 20), (5_000, 128, 100, 2, 5), (60_502, 128, 11_316, 2, 1)],
)
def test_backends(count, dimension, classes, threads, rounds):
    embeddings, labels = make_set(count, dimension, classes)
    candidates = {
        backend: lambda backend=backend: retrieval_metrics(embeddings, labels, backend=backend)
        for backend in ("torch", "faiss")
    }
    if count <= 5_000:
        candidates["sorted matrix"] = lambda: sort_everything(embeddings, labels)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        timings = time_by_turns(candidates, rounds=rounds, warm_up=1 if count <= 5_000 else 0)
    finally:
        torch.set_num_threads(before)
    row = "  ".join(f"{name} {timings.median(name):.3f}" for name in candidates)
    print(f"\n{count:>6} x {dimension}, {threads} threads, s: {row}")
    if count <= 5_000:
        assert timings.ratio("torch", "sorted matrix") < 0.5
    if count == 2_000:
        assert timings.median("torch") < 0.15
    if count == 60_502:
        assert min(map(timings.median, candidates)) < 20
