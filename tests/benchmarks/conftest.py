"""Rows of `tests/benchmarks/README.md`, which `pytest -m benchmark tests/benchmarks --write-table` writes anew."""

import importlib.metadata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from dmlbench.machine import usable_cores
from dmlbench.provenance import cpu_model, versions

README = Path(__file__).parent / "README.md"
ABOUT = """# Benchmarks

Ours against peers and against our own reference, by turns in one process (`dmlbench/interleave.py`): medians, and
ratios formed within a round. Nothing of this is asserted in the normal test suite, for machines are shared and noisy.
Written by

```sh
pytest -m benchmark tests/benchmarks --write-table
```

on {date}, {cpu}, {cores} cores, {libraries}.
"""
ROWS = pytest.StashKey[dict[str, list[dict[str, str]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="Write tests/benchmarks/README.md from this run.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds a row to a table, by its heading, and prints it; every row of a table has the same columns."""

    def add(heading: str, **cells: str | float) -> None:
        written = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in cells.items()}
        request.config.stash[ROWS].setdefault(heading, []).append(written)
        print(f"\n{heading}: " + ", ".join(f"{name} {value}" for name, value in written.items()))

    return add


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--write-table"):
        return
    peers = ("pytorch-metric-learning", "torchmetrics", "scikit-learn")
    known = ("torch", "numpy", "faiss-gpu", "faiss-cpu", *peers)
    found = versions() | {name: importlib.metadata.version(name) for name in peers}
    libraries = ", ".join(f"{name} {found[name]}" for name in known if name in found)
    text = ABOUT.format(
        date=datetime.now(UTC).date(), cpu=cpu_model(), cores=usable_cores(), libraries=libraries
    )  # fmt: skip
    for heading, rows in session.config.stash[ROWS].items():
        columns = list(rows[0])
        lines = [columns, ["---"] * len(columns), *(list(one.values()) for one in rows)]
        text += f"\n## {heading}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
    if (README.parent / "growth.png").is_file():
        text += "\n![Evaluation time and memory against embeddings, step time against the batch](growth.png)\n"
    README.write_text(text, encoding="utf-8")
