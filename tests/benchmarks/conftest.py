"""Rows of `tests/benchmarks/README.md`, which `pytest -m benchmark tests/benchmarks --write-table` writes anew."""

import importlib.metadata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import faiss
import pytest
import torch

from dmlbench.machine import usable_cores
from dmlbench.results.environment import cpu_model, versions

README = Path(__file__).parent / "README.md"
ABOUT = """# Benchmarks

Ours against peers and against our own reference, by turns in one process (`dmlbench/interleave.py`): medians, and
ratios formed within a round, so a ratio is not that of the medians beside it. No timing is asserted in the normal test
suite, for machines are shared and noisy; the counts of operations and launches are. Written by

```sh
pytest -m benchmark tests/benchmarks --write-table
pytest tests/benchmarks/test_operations.py --write-table
python tests/gpu/run.py --values tests/benchmarks/test_launches.py --write-table
```

A run of some of them writes those tables anew and leaves the others.

- `ratio`: time over that of the reference or the peer; of images per second, rate over the published codes'. In
  brackets the 95% bootstrap interval of its median over `rounds`, and of fewer than ten rounds the lowest and highest.
  An interval is of one process: from run to run ratios moved by up to 0.15 here.
- `kept`: the form that dmlbench takes; `distance`: the largest difference of its numbers to the reference's, over the
  largest of these. Differences of a tenth are within the noise of a shared machine.
- `doing less`: precision at 1, R-precision and MAP@R, where ours adds recall at 10, 100 and 1000.
- Of 60,502 embeddings: `ours, torch` compares in float64. A form that compared in float32 first took 0.80 and 0.84 of
  its time, and gained `auto` nothing (at 75%, by turns, after a first round: 1.05 and 0.97 of its time without), so it
  was removed. The rows of faiss are from before: they left queries in doubt to that form.
- `Operations`: of ATen, views among them, as they reach a backend after autograd. `host waits`: operations after which
  the host knows a value or a size, so that on a GPU it waits for all that was asked before. PML's losses have their
  usual miner where they have one: MultiSimilarityMiner, DistanceWeightedMiner (`PML mined`), or all pairs or triplets
  (`PML all`). How many triplets are mined decides over PML's counts; over ours no value does.
- `Launches`: kernels and calls of cuBLAS and cuSOLVER, of the null GPU (`tests/gpu`), with the CPU's values. PML's are
  at least these: where a size is read from the GPU, what follows in the same operation is not counted.
- Columns of the growth of a step: the methods `ms`, `ms+obdsd` and `ms+obdsd-mem`, in milliseconds.
"""
FIGURE = "\n![Evaluation time and memory against embeddings, step time against the batch](growth.png)\n"
ROWS = pytest.StashKey[dict[str, list[dict[str, str]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="Write tests/benchmarks/README.md from this run.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads of torch and faiss, until the test ends."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()

    def use(count: int) -> None:
        torch.set_num_threads(count)
        faiss.omp_set_num_threads(count)

    yield use
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds a row to a table, by its heading, and prints it; every row of a table has the same columns."""

    def add(heading: str, **cells: str | float) -> None:
        written = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in cells.items()}
        request.config.stash[ROWS].setdefault(heading, []).append(written)
        print(f"\n{heading}: " + ", ".join(f"{name} {value}" for name, value in written.items()))

    return add


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    rows = session.config.stash[ROWS]
    if not session.config.getoption("--write-table") or not rows:
        return
    if exitstatus > pytest.ExitCode.TESTS_FAILED:  # a limit that fails is a result, too; an interrupted run is none
        print("\nbroken off: the tables are left as they were")
        return
    tables = _tables_of(README.read_text(encoding="utf-8")) if README.is_file() else {}
    about = f"{datetime.now(UTC).date()}, {cpu_model()}, {usable_cores()} cores; {_libraries()}\n\n"
    for heading, own in rows.items():
        columns = list(own[0])
        lines = [columns, ["---"] * len(columns), *(list(one.values()) for one in own)]
        tables[heading] = about + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
    figure = FIGURE if (README.parent / "growth.png").is_file() else ""
    written = ABOUT + "".join(f"\n## {heading}\n\n{tables[heading]}" for heading in sorted(tables)) + figure
    README.write_text(written, encoding="utf-8")


def _tables_of(text: str) -> dict[str, str]:
    """What lies below each heading."""
    sections = text.removesuffix(FIGURE).split("\n## ")[1:]
    return dict(section.split("\n\n", 1) for section in sections)


def _libraries() -> str:
    peers = ("pytorch-metric-learning", "torchmetrics", "scikit-learn")
    found = versions() | {name: importlib.metadata.version(name) for name in peers}
    known = ("torch", "numpy", "faiss-gpu", "faiss-cpu", *peers)
    return ", ".join(f"{name} {found[name]}" for name in known if name in found)
