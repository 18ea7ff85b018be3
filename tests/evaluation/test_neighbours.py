"""The backends: which one runs, what it falls back to, and how much memory it takes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dmlbench.evaluation import faiss_index, neighbours, retrieval, retrieval_metrics


class LargestTensor(TorchDispatchMode):
    """Remember the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def random_pairs(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 8, generator=generator), torch.arange(count) // 2


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0])
def test_memory_does_not_grow_with_the_square(monkeypatch, backend, spread):
    """Not of embeddings that coincide or nearly do, either: there float32 decides nothing."""
    monkeypatch.setattr(neighbours, "CPU_TILE", (32, 64))
    monkeypatch.setattr(retrieval.FaissRanker, "rows_at_once", 32)
    largest = {}
    for count in (128, 512):
        embeddings, labels = random_pairs(count)
        embeddings = torch.ones(8, dtype=torch.float64) + spread * embeddings
        with LargestTensor() as seen:
            retrieval_metrics(embeddings, labels, backend=backend)
        largest[count] = seen.elements
    assert largest[512] <= max(4 * largest[128], 512 * 8)  # the embeddings themselves, four times as many


@pytest.mark.parametrize(("count", "positives", "expected"), [(64, 1, "faiss"), (62, 1, "torch"), (64, 3, "torch")])
def test_auto_takes_faiss_for_many_references_and_few_positives(monkeypatch, count, positives, expected):
    monkeypatch.setattr(retrieval, "FAISS_PAYS_FROM_REFERENCES", 64)
    monkeypatch.setattr(retrieval, "FAISS_PAYS_TO_POSITIVES", 2)
    embeddings, _ = random_pairs(count)
    search = neighbours.Search.of(embeddings.double(), torch.arange(count) // (positives + 1))
    ranker = retrieval.make_ranker(search, "auto", depth=1)
    assert type(ranker).__name__.lower() == f"{expected}ranker"


def test_without_faiss_auto_takes_torch_and_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(retrieval, "FAISS_PAYS_FROM_REFERENCES", 1)
    embeddings, labels = random_pairs(20)
    assert retrieval_metrics(embeddings, labels) == retrieval_metrics(embeddings, labels, backend="torch")
    with pytest.raises(ValueError, match="install faiss-cpu or faiss-gpu, or use one of: auto, torch"):
        retrieval_metrics(embeddings, labels, backend="faiss")


def test_queries_that_faiss_cannot_settle_are_ranked_exactly(monkeypatch):
    """A hundred references within float32 rounding of the positive: faiss alone cannot order them."""
    base, labels = near_ties(1e-9)
    again = []
    exact = neighbours.TorchRanker.__call__
    monkeypatch.setattr(
        neighbours.TorchRanker, "__call__", lambda self, rows, p: again.append(rows) or exact(self, rows, p)
    )
    ks = (49, 50, 100, 101)
    ours = retrieval_metrics(base, labels, ks=ks, backend="faiss")
    assert sum(map(len, again)) > 0
    assert ours == retrieval_metrics(base, labels, ks=ks, backend="torch")
    assert ours["recall_at_49"] < ours["recall_at_50"]


def near_ties(spread):
    """102 unit vectors of which 101 lie within `spread` of one another; the first and the middle one are a class."""
    base = torch.zeros(102, 16, dtype=torch.float64)
    base[:, 0] = 1
    base[1:, 1] = 0.1 + spread * torch.arange(101, dtype=torch.float64)
    labels = torch.arange(102)
    labels[50] = 0
    return torch.nn.functional.normalize(base, dim=1), labels


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_numbers_do_not_depend_on_the_callers_precision(backend):
    embeddings, labels = random_pairs(2000)
    ks = (1, 300, 1000)
    expected = retrieval_metrics(embeddings, labels, ks, backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert retrieval_metrics(embeddings, labels, ks, backend) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert retrieval_metrics(embeddings, labels, ks, backend) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_faiss_uses_as_many_threads_as_pytorch_and_gives_the_setting_back(monkeypatch):
    faiss = faiss_index.import_faiss()
    seen, before = [], faiss.omp_get_max_threads()
    index = faiss_index.FaissIndex(torch.eye(8, dtype=torch.float64))
    search = index.cpu_index.search
    monkeypatch.setattr(index.cpu_index, "search", lambda *a: seen.append(faiss.omp_get_max_threads()) or search(*a))
    index.search(torch.eye(8), 2)
    assert seen == [torch.get_num_threads()]
    assert faiss.omp_get_max_threads() == before


def test_faiss_on_a_gpu_that_fails_the_probe_searches_on_the_cpu_and_warns(monkeypatch):
    index = faiss_index.FaissIndex(torch.eye(4, dtype=torch.float64))
    index.device = torch.device("cuda", 3)
    monkeypatch.setattr(faiss_index, "gpu_problem", lambda number: f"no kernel image for {number}")
    with pytest.warns(RuntimeWarning, match=r"cuda:3 \(no kernel image for 3\); it searches on the CPU"):
        assert index._on_gpu() is None


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (subprocess.CompletedProcess([], 0, "", ""), None),
        (subprocess.CompletedProcess([], -6, "", "a\nCUDA error 209 no kernel image\n"), "CUDA error 209"),
        (subprocess.CompletedProcess([], -11, "", ""), "code -11"),
        (subprocess.TimeoutExpired([], 120), "hung"),
    ],
)
def test_probe_of_the_gpu(monkeypatch, outcome, problem):
    def run(*args, **kwargs):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(faiss_index.import_faiss(), "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss_index.subprocess, "run", run)
    found = faiss_index.gpu_problem.__wrapped__(0)
    assert found is None if problem is None else problem in found


def test_probe_of_a_gpu_that_is_not_there_fails_without_taking_us_down():
    assert isinstance(faiss_index.gpu_problem(4242), str)


def test_importing_the_metrics_imports_no_heavy_library():
    code = "import sys, dmlbench.evaluation; print({'sklearn', 'scipy', 'faiss'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_search_keeps_every_class_together_small_ones_first():
    labels = torch.tensor([5, 2, 5, 7, 2, 5, 1])
    search = neighbours.Search.of(torch.arange(7.0).double()[:, None], labels)
    assert search.positives.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert search.references[:, 0].tolist() == [6, 3, 1, 4, 0, 2, 5]
    assert np.array_equal(search.stop - search.start, search.positives + 1)
