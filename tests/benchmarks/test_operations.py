"""What a loss asks of a device beside pytorch-metric-learning's, in counts, which no busy machine changes.

pytest tests/benchmarks/test_operations.py --write-table
"""

import pytest
import torch

from tests.benchmarks.peers import PEERS
from tests.operations import operations, waits

HEADING = "Operations of a loss, forward and backward, batch 112 x 128"


@pytest.mark.parametrize("name", PEERS)
def test_a_loss_has_fewer_operations_than_its_peer_and_never_waits(row, name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        steps = PEERS[name].steps()
        for step in steps.values():  # what a first call prepares is no part of it
            step()
        asked = {by: sum(operations(step).values()) for by, step in steps.items()}
        waited = {by: sum(waits(step).values()) for by, step in steps.items()}
    cells = {"ours": asked["ours"], "PML": asked["PML"]}
    cells |= {"host waits, ours": waited["ours"], "host waits, PML": waited["PML"]}
    row(HEADING, loss=name, **{column: str(count) for column, count in cells.items()})
    assert asked["ours"] < asked["PML"]
    assert waited["ours"] == 0
