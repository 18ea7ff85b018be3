"""Forward + backward of each loss against pytorch-metric-learning's counterpart, 2 threads, batch 112 x 128.

    pytest -m benchmark tests/benchmarks/test_losses_speed.py -s

Mined losses run against its DistanceWeightedMiner and against its default of all pairs or triplets.
"""

import pytest

from tests.benchmarks.by_turns import time_by_turns
from tests.benchmarks.peers import CLASSES, OF_PAIRS, OF_PROXIES, Peers

pytestmark = pytest.mark.benchmark
HEADING = "Losses: forward and backward, batch 112 x 128, two threads"


@pytest.fixture(autouse=True)
def two_threads(threads):
    threads(2)


@pytest.fixture
def compare(row):
    """Adds a row and holds the ratio to its limit."""

    def run(name: str, peers: Peers, classes: int, limit: float, rounds: int) -> None:
        timings = time_by_turns(peers.steps(classes), rounds=rounds)
        ratio = timings.ratio_cells("ours", "PML")
        ours_ms, theirs_ms = (f"{1e3 * timings.median(which):.2f}" for which in ("ours", "PML"))
        row(HEADING, loss=name, **{"ours (ms)": ours_ms, "PML (ms)": theirs_ms, **ratio})
        assert timings.ratio("ours", "PML") <= limit

    return run


@pytest.mark.parametrize("name", OF_PAIRS)
def test_losses_of_pairs(compare, name):
    limit = 0.6 if name == "multi_similarity, mined" else 1.0
    compare(name, OF_PAIRS[name], CLASSES, limit, 20 if name == "smooth_ap" else 100)


@pytest.mark.parametrize("classes", [100, 11_318])
@pytest.mark.parametrize("name", OF_PROXIES)
def test_losses_of_proxies(compare, name, classes):
    compare(f"{name}, {classes:,} classes", OF_PROXIES[name], classes, 1.0, 100 if classes == 100 else 20)
