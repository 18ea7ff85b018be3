import dataclasses
import os
from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.results.store import Store
from dmlbench.runner import execution as module
from dmlbench.runner import matrix
from dmlbench.runner.execution import Execution, data_workers, worker_devices


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are counted another way here")
@pytest.mark.parametrize(
    ("cores", "threads", "options", "count"),
    [
        (8, 1, {}, 8),
        (8, 2, {}, 4),
        (8, 1, {"data_workers": 1}, 4),
        (1, 4, {}, 1),
        (8, 2, {"workers": 3}, 3),
    ],
)
def test_workers_share_the_cores(monkeypatch, cores, threads, options, count):
    store = Store(Path("runs"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    assert worker_devices(Execution(store, device="cpu", **options), threads) == ["cpu"] * count


def test_a_gpu_that_is_asked_for_is_looked_for_without_its_tools(store, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert worker_devices(Execution(store, device="cuda"), 1) == ["cuda:0", "cuda:1", "cuda:2"]


def test_workers_take_turns_on_the_gpus(store, monkeypatch):
    monkeypatch.setattr(module, "_gpu_count", lambda **_: 2)
    assert worker_devices(Execution(store), 1) == ["cuda:0", "cuda:1"]
    assert worker_devices(Execution(store, workers=3, per_gpu=2), 1) == ["cuda:0", "cuda:1", "cuda:0"]
    assert worker_devices(Execution(store, per_gpu=2), 1) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    with pytest.raises(UserError, match=r"--workers 3: 2 GPUs with --per-gpu 1 hold 2; --per-gpu 2 makes them share"):
        worker_devices(Execution(store, workers=3), 1)
    assert set(worker_devices(Execution(store, device="cpu"), 1)) == {"cpu"}
    monkeypatch.setattr(module, "_gpu_count", lambda **_: 0)
    assert worker_devices(Execution(store, workers=2), 1) == ["cpu", "cpu"]


@pytest.fixture
def gpus(monkeypatch):
    """Eight GPUs, 16 cores, and the 64 MiB of shared memory that a container has."""
    monkeypatch.setattr(module, "_gpu_count", lambda **_: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    monkeypatch.setattr(module, "shared_memory", lambda: 64 << 20)
    monkeypatch.setattr(module, "cuda_failure", lambda _: None)


def test_each_gpu_has_a_loader_process(store, gpus):
    execution = Execution(store)
    assert data_workers(execution, worker_devices(execution, 2), 2) == 1
    assert data_workers(execution, worker_devices(execution, 1), 1) == 1
    assert data_workers(Execution(store, data_workers=0), ["cuda:0"], 2) == 0


def test_gpus_train_cells_together(store, gpus):
    pairs = Execution(store, gpus_per_cell=2)
    assert worker_devices(pairs, 1) == ["cuda:0", "cuda:2", "cuda:4", "cuda:6"]
    assert worker_devices(Execution(store, gpus_per_cell=3), 1) == ["cuda:0", "cuda:3"]
    assert data_workers(pairs, worker_devices(pairs, 1), 1) == 1
    assert data_workers(Execution(store, gpus_per_cell=4), ["cuda:0", "cuda:4"], 1) == 1
    with pytest.raises(UserError, match=r"--workers 3: 8 GPUs with --gpus-per-cell 4 hold 2; give 2"):
        worker_devices(Execution(store, gpus_per_cell=4, workers=3), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus_per_cell": 9}, "--gpus-per-cell 9: this machine has 8 GPUs"),
        ({"gpus_per_cell": 2, "per_gpu": 2}, "--gpus-per-cell 2: excludes --per-gpu 2"),
        ({"gpus_per_cell": 2, "device": "cpu"}, "--gpus-per-cell 2: needs GPUs, not --device cpu"),
        ({"gpus_per_cell": 2, "executor": "ray"}, "--gpus-per-cell 2: needs --executor local or slurm"),
        ({"gpus_per_cell": 3}, "--gpus-per-cell 3: training.batch_size 112 is not a multiple of it"),
        ({"gpus_per_cell": 2}, "--gpus-per-cell: the BatchNorm of conv4 would use the statistics of each GPU's part"),
    ],
)
def test_what_gpus_cannot_train_together_is_refused_before_any_cell(store, gpus, make_cell, options, said):
    with pytest.raises(UserError, match=said):
        matrix.make_ready([make_cell()], Execution(store, **options), lambda _: None)


def test_a_run_on_gpus_says_what_makes_it_slow(store, gpus, make_cell):
    cells = [make_cell(seed=seed, cpu_threads=2) for seed in range(8)]
    said = "\n".join(matrix.notes(cells, cells, Execution(store)))
    assert "note: tiny: float32 without TF32; --set training.autocast=bfloat16 or training.float32_conv" in said
    assert "note: 16 cores for 8 training processes: loaders will keep the GPUs waiting" in said
    assert "loaders take" not in said
    large = [dataclasses.replace(own, protocol=of_photographs(own.protocol)) for own in cells]
    said = "\n".join(matrix.notes(large, large, Execution(store)))
    assert "note: loaders take up to 588 MiB of /dev/shm, which has 64; a larger /dev/shm helps, or fewer" in said
    half = [make_cell(autocast="bfloat16")]
    assert not any("TF32" in line for line in matrix.notes(half, half, Execution(store)))


def test_loaders_of_a_cpu_share_little_memory_too(store, make_cell, monkeypatch):
    monkeypatch.setattr(module, "shared_memory", lambda: 1 << 20)
    cells = [dataclasses.replace(make_cell(), protocol=of_photographs(make_cell().protocol))]
    said = "\n".join(matrix.notes(cells, cells, Execution(store, device="cpu", data_workers=2)))
    assert "note: loaders take up to 147 MiB of /dev/shm, which has 1; " in said
    assert "or fewer --data-workers, such as 0" in said
    for workers in (None, 0):
        assert not any("shm" in line for line in matrix.notes(cells, cells, Execution(store, data_workers=workers)))


def of_photographs(protocol):
    image = protocol.input.model_copy(update={"channels": 3, "size": 224, "resize": 256})
    return protocol.model_copy(update={"input": image})


def test_cuda_that_cannot_start_is_said_once_before_any_cell(store, gpus, make_cell, monkeypatch):
    monkeypatch.setattr(module, "cuda_failure", lambda devices: f"{devices}: the driver is too old")
    with pytest.raises(
        UserError, match=r"--device auto: CUDA cannot start \(.*cuda:0.*: the driver is too old\); --device cpu"
    ):
        matrix.make_ready([make_cell()], Execution(store), print)


def test_tf32_on_a_cpu_has_no_effect(store, make_cell, monkeypatch):
    monkeypatch.setattr(module, "_gpu_count", lambda **_: 0)
    cell = make_cell(float32_convolutions="tf32")
    with pytest.raises(UserError, match=r"training\.float32_convolutions has no effect on a CPU"):
        matrix.make_ready([cell], Execution(store), print)
