"""dmlbench: reproducible benchmarks for deep metric learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmlbench.analysis.embeddings import read_embeddings
    from dmlbench.results.frames import load_history, load_results

__version__ = "0.1.0"
__all__ = ["__version__", "load_history", "load_results", "read_embeddings"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the module protocol
    """Load pandas only for those who ask for tables."""
    if name in {"load_results", "load_history"}:
        from dmlbench.results import frames as results

        return getattr(results, name)
    if name == "read_embeddings":
        from dmlbench.analysis import embeddings

        return embeddings.read_embeddings
    raise AttributeError(f"module 'dmlbench' has no attribute {name!r}")
