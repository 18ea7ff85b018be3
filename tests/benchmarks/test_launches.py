"""What a loss launches on a GPU beside pytorch-metric-learning's: counted on one that is not there.

python tests/gpu/run.py --values tests/benchmarks/test_launches.py --write-table
"""

import os

import pytest
import torch

from tests.benchmarks.peers import PEERS
from tests.gpu.nullgpu.kernels import Counts, counted
from tests.gpu.nullgpu.values import Launching
from tests.operations import INDEXING, READING

HEADING = "Launches of a loss on a GPU, forward and backward, batch 112 x 128"
pytestmark = pytest.mark.skipif(
    os.environ.get("DMLBENCH_NULL_GPU") != "values",
    reason="counted by `python tests/gpu/run.py --values tests/benchmarks/test_launches.py`",
)


def counts_of(step) -> Counts:
    for _ in range(2):  # what a first call prepares is no part of it
        step()
    with counted() as counts, Launching(READING | INDEXING):
        step()
    return counts


@pytest.mark.parametrize("name", PEERS)
def test_a_loss_has_fewer_launches_than_its_peer(row, name):
    torch.manual_seed(0)
    counts = {by: counts_of(step) for by, step in PEERS[name].steps(device="cuda").items()}
    launches = {by: found.launches + found.library_calls for by, found in counts.items()}
    row(HEADING, loss=name, **{by: str(count) for by, count in launches.items()})
    assert launches["ours"] < launches["PML"]
