"""dmlbench: reproducible benchmarks for deep metric learning.

study = dmlbench.run(methods=["ms", "ms+obdsd"], datasets=["glyphs"])
study.frame, study.compare(), study.report("reports/mine")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmlbench.analysis.embeddings import read_embeddings
    from dmlbench.api.networks import embed, evaluate, evaluate_cell, load_model
    from dmlbench.api.study import Study, compare, report, run
    from dmlbench.api.untrained import evaluate_file, evaluate_network
    from dmlbench.errors import UserError
    from dmlbench.results.frames import load_history, load_results

__version__ = "0.1.0"
__all__ = [
    "Study",
    "UserError",
    "__version__",
    "compare",
    "embed",
    "evaluate",
    "evaluate_cell",
    "evaluate_file",
    "evaluate_network",
    "load_history",
    "load_model",
    "load_results",
    "read_embeddings",
    "report",
    "run",
]
# Loaded when asked for: the command line starts without torch and pandas.
MODULES = {
    "api.study": ("Study", "compare", "report", "run"),
    "api.networks": ("embed", "evaluate", "evaluate_cell", "load_model"),
    "api.untrained": ("evaluate_file", "evaluate_network"),
    "analysis.embeddings": ("read_embeddings",),
    "results.frames": ("load_history", "load_results"),
    "errors": ("UserError",),
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    for module, names in MODULES.items():
        if name in names:
            return getattr(import_module(f"dmlbench.{module}"), name)
    raise AttributeError(f"module 'dmlbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
