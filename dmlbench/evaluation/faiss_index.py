"""faiss's exact inner-product search over a gallery, on the CPU or, where it works there, on the GPU."""

import functools
import subprocess
import sys
import warnings
from types import ModuleType
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

# Largest k of faiss's GPU search.
GPU_MAX_NEIGHBOURS = 2048

_PROBE = """
import sys, faiss, numpy
vectors = numpy.eye(8, dtype=numpy.float32)
index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(sys.argv[1]), faiss.IndexFlatIP(8))
index.add(vectors)
assert (index.search(vectors, 1)[1][:, 0] == numpy.arange(8)).all()
"""


class FaissIndex:
    """A flat float32 index of unit embeddings, (N, D) float64, that uses as many threads as PyTorch does."""

    def __init__(self, embeddings: Tensor) -> None:
        self.faiss = import_faiss()
        self.device = embeddings.device
        self.cpu_index = self.faiss.IndexFlatIP(embeddings.shape[1])
        self.cpu_index.add(embeddings.float().cpu().numpy())
        self.gpu_index = self._on_gpu() if self.device.type == "cuda" else None

    def search(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` nearest rows of each of the queries (B, D) by float32 similarity.

        Returns:
            The neighbours, (B, K) int64 with K = min(count, N), and the largest similarity that a reference
            left out may have by faiss's reckoning, (B,) float64, -inf where none is left out.
        """
        total: int = self.cpu_index.ntotal
        count = min(count, total)
        index = self.cpu_index if self.gpu_index is None or count > GPU_MAX_NEIGHBOURS else self.gpu_index
        with threadpool_limits(torch.get_num_threads(), "openmp"):
            similarities, neighbours = index.search(queries.float().cpu().numpy(), count)
        left_out = torch.from_numpy(similarities[:, -1]).to(self.device, torch.float64)
        if count == total:
            left_out.fill_(-torch.inf)
        return torch.from_numpy(neighbours).to(self.device), left_out

    def _on_gpu(self) -> Any:  # noqa: ANN401 - faiss has no types
        """The index on the embeddings' GPU; None, with a warning, where faiss cannot search there."""
        number = self.device.index or 0
        problem = gpu_problem(number)
        if problem is not None:
            message = f"faiss cannot search on cuda:{number} ({problem}); it searches on the CPU instead"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            return None
        self.resources = self.faiss.StandardGpuResources()  # must live as long as the index
        return self.faiss.index_cpu_to_gpu(self.resources, number, self.cpu_index)


def import_faiss() -> ModuleType:
    """Import faiss, whose SWIG types raise deprecation warnings of their own on some Python versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss  # noqa: PLC0415 - optional, and slow to import
    return faiss


@functools.cache
def gpu_problem(number: int) -> str | None:
    """Why faiss cannot search on a GPU, or None: some builds know no GPU, or have no kernels for a new one.

    A tiny search is tried in a process of its own, because faiss aborts the process when a kernel is missing.
    """
    if not hasattr(import_faiss(), "StandardGpuResources"):
        return "this build of faiss has no GPU support"
    try:
        probe = subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-P", "-c", _PROBE, str(number)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "a tiny test search hung"
    if probe.returncode == 0:
        return None
    return (probe.stderr.strip().splitlines() or [f"a tiny test search ended with code {probe.returncode}"])[-1]
