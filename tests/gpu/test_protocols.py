"""A step of each protocol at its own size: what it launches and holds, against a table as that of `test_launches`."""

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.gpu.nullgpu.kernels import counted

TABLE = Path(__file__).with_name("protocols.csv")
ROOM = 1.05
pytestmark = pytest.mark.null


@dataclass(frozen=True)
class Case:
    method: str
    protocol: str
    dataset: str
    autocast: str

    def __str__(self) -> str:
        return f"{self.method} {self.protocol} {self.autocast}"


CASES = [
    Case("ms", "resnet50-128", "cub", "none"),
    Case("ms", "resnet50-128", "cub", "bfloat16"),
    Case("ms+obdsd", "resnet50-128", "cub", "bfloat16"),
    Case("ms+s2sd", "resnet50-128", "cub", "bfloat16"),
    Case("ms+dm2", "resnet50-128", "cub", "bfloat16"),
    Case("ms", "resnet50-512", "cub", "bfloat16"),
    Case("proxyanchor", "proxyanchor-resnet50-512", "cub", "none"),
    Case("proxyanchor", "nonisotropic-resnet50-128", "cub", "bfloat16"),
    Case("cosinecontrastive+xbm", "xbm-resnet50-128", "sop", "bfloat16"),
    Case("spherepair", "hyp-vit-s16", "cub", "float16"),
    Case("ms", "mobilenetv1-112", "cub", "none"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_takes_no_more_than_in_the_table(case, make, pytestconfig):
    made = make(case.method, case.protocol, case.dataset, autocast=case.autocast)
    warm_up = made.protocol.training.warmup
    first = (warm_up.epochs or 0) if warm_up else 0
    torch.cuda.reset_peak_memory_stats()
    for epoch in (first, first + 1):
        made.step(epoch)
        made.trainer.end_epoch()
    with counted() as counts:
        made.step(first + 2)
    assert counts.waits == 0
    found = vars(case) | {
        "batch_size": made.protocol.training.batch_size,
        "launches": counts.launches + counts.library_calls,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
    }
    rows = {(row["method"], row["protocol"], row["autocast"]): row for row in _rows()}
    if pytestconfig.getoption("--write-launches"):
        rows[case.method, case.protocol, case.autocast] = found
        keys = [(own.method, own.protocol, own.autocast) for own in CASES]
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[key] for key in keys if key in rows)
    row = rows[case.method, case.protocol, case.autocast]
    assert found["launches"] <= ROOM * int(row["launches"])
    assert found["peak_gib"] <= ROOM * float(row["peak_gib"]) + 0.1


def _rows() -> list[dict[str, str]]:
    return list(csv.DictReader(TABLE.read_text().splitlines())) if TABLE.is_file() else []
