"""What a step of ResNet-50 gives a GPU to do, against a table: `--write-launches` makes it anew."""

import csv
from pathlib import Path

import pytest
import torch

from dmlbench.modifiers import teachers
from tests.gpu.nullgpu.kernels import Counts, counted

TABLE = Path(__file__).with_name("launches.csv")
METHODS = (
    "ms",
    "ms+psd",
    "ms+obdsd",
    "ms+obdsd-mem",
    "ms+s2sd",
    "triplet",
    "margin",
    "proxyanchor",
    "supcon",
)
ROOM = 1.02  # releases of torch differ by a few
pytestmark = pytest.mark.null


def counts_of(method: str, make, **training) -> Counts:
    made = make(method, **training)
    for epoch in range(2):
        for number in range(2):
            made.step(epoch, number)
        made.trainer.end_epoch()
    with counted() as counts:
        made.step(2)
    return counts


@pytest.mark.parametrize("method", METHODS)
def test_a_step_has_no_more_launches_than_in_the_table(method, make, pytestconfig):
    counts = counts_of(method, make)
    rows = {row["method"]: row for row in csv.DictReader(TABLE.read_text().splitlines())} if TABLE.is_file() else {}
    found = {"method": method, "launches": counts.launches, "library_calls": counts.library_calls}
    if pytestconfig.getoption("--write-launches"):
        rows[method] = found
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[name] for name in METHODS if name in rows)
    for name in ("launches", "library_calls"):
        assert found[name] <= ROOM * int(rows[method][name])


def test_deterministic_algorithms_fill_no_memory(make):
    counts = counts_of("ms", make, deterministic=True)
    free = counts_of("ms", make, deterministic=False)
    assert counts.launches < 1.1 * free.launches


@pytest.mark.parametrize(("convolutions", "allowed"), [("ieee", False), ("tf32", True)])
def test_convolutions_round_to_tf32_where_the_protocol_says_so(convolutions, allowed, make):
    make("ms", "conv4-64", "glyphs", float32_convolutions=convolutions)
    assert torch.backends.cudnn.allow_tf32 == allowed
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_teacher_on_cuda_is_not_folded(make):
    made = make("ms+psd", "conv4-64", "glyphs", model={"freeze_batchnorm": True})
    made.trainer.end_epoch()
    teacher = made.trainer.modifier.teacher
    assert not teacher.folds(made.trainer.model)
    assert sum(isinstance(own, torch.nn.BatchNorm2d) for own in teacher.network.modules()) == 4


@pytest.mark.parametrize("method", ["ms+psd", "ms+rkd"])
def test_a_teachers_weights_are_rounded_once_an_epoch(method, make, monkeypatch):
    """One launch for each of a ResNet-50's 53 convolutions, and two for its head."""
    counts = counts_of(method, make, autocast="bfloat16")
    monkeypatch.setattr(teachers, "rounded", lambda network, _: network)
    assert counts.launches + 54 <= counts_of(method, make, autocast="bfloat16").launches


def test_adam_is_one_launch_for_many_weights(make):
    counts = counts_of("ms", make)
    adam = {name: count for name, count in counts.kernels.items() if "multi_tensor_apply" in name}
    assert any("FusedAdam" in name for name in adam)
    assert sum(adam.values()) <= 8
