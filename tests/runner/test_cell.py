import csv
import errno
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dmlbench.data.images import Dataset, Split
from dmlbench.errors import DivergedError, UserError, one_line
from dmlbench.results.events import Claimed, Epoch, Finished, Halted, Started
from dmlbench.results.store import Store, ended_at, read_summary
from dmlbench.runner import cell as module
from dmlbench.runner.cell import run_cell
from dmlbench.runner.tasks import RunOptions
from dmlbench.specs.cell import ResolvedValue
from dmlbench.specs.plugins import plugin_digest


@pytest.fixture
def small(monkeypatch, make_cell):
    """A cell of three epochs that train in no time: four classes of six 16 px images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(6)
    images = torch.randint(0, 255, (24, 1, 16, 16), generator=generator).to(torch.uint8)
    split = Split(images, labels, tuple("abcd"))
    monkeypatch.setattr(module, "load_of_cell", lambda *_: Dataset("small", split, split, "f00d"))
    monkeypatch.setattr(module.provenance, "git_state", dict)
    return make_cell("ms+psd", epochs=3, batch_size=8)


def numbers(folder) -> list[list[str]]:
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [index for index, name in enumerate(rows[0]) if not name.startswith("time/")]
    return [[row[index] for index in kept] for row in rows]


def run(cell, root, options=RunOptions(device="cpu"), emit=lambda _: None):  # noqa: B008 - frozen
    folder = Store(root).folder(cell)
    run_cell(cell, folder, options, emit)
    return folder, read_summary(folder)


def stopping_at(epoch):
    def emit(event):
        if isinstance(event, Epoch) and event.epoch == epoch:
            raise SystemExit(0)

    return emit


@pytest.fixture
def failing(tmp_path, monkeypatch, make_cell):
    """Runs a cell whose training raises, on a device of the given name; its fitness, its summary, its events."""

    def run(error: Exception, device: str):
        def train(*_, **__):
            raise error

        monkeypatch.setattr(module, "_train", train)
        monkeypatch.setattr(module, "resolve_device", lambda _: torch.device("cpu"))
        cell, events = make_cell(), []
        folder = Store(tmp_path).folder(cell)
        fit = run_cell(cell, folder, RunOptions(device=device, processes=2, data_workers=1), events.append)
        return fit, read_summary(folder), events

    return run


def test_a_failure_is_a_result_with_its_machine_and_code(failing):
    fit, summary, events = failing(RuntimeError("no such kernel\nand more"), "cpu")
    assert fit
    assert summary.status == "failed"
    assert summary.error.as_json() == {"kind": "error", "class": "RuntimeError", "message": "no such kernel"}
    assert (summary.environment.processes, summary.environment.data_workers) == (2, 1)
    assert len(summary.environment.machine) == 12
    assert len(summary.code.digest) == 16
    assert [type(event) for event in events] == [Started, Finished]


@pytest.mark.parametrize(
    ("error", "device", "fit"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), "cuda:0", False),
        (DivergedError("loss is nan at epoch 1, step 2"), "cuda:0", True),
        (UserError("no such dataset"), "cuda:0", True),
        (RuntimeError("anything"), "cpu", True),
    ],
)
def test_a_process_with_a_broken_cuda_context_runs_no_other_cell(failing, error, device, fit):
    assert failing(error, device)[0] is fit


def test_classes_held_out_for_validation_count_as_neither_training_nor_test(make_cell):
    def split(images, classes):
        return SimpleNamespace(labels=range(images), class_names=range(classes), queries=None)

    dataset = SimpleNamespace(fingerprint="f00d", train=split(200, 10), test=split(80, 4))
    counts = module._dataset(make_cell(), dataset, split(160, 8))
    assert {key: value for key, value in counts.as_json().items() if key.endswith(("_images", "_classes"))} == {
        "train_images": 160,
        "train_classes": 8,
        "held_out_images": 40,
        "held_out_classes": 2,
        "test_images": 80,
        "test_classes": 4,
    }
    dataset.test.queries = torch.arange(80) < 30
    assert module._dataset(make_cell(), dataset, split(160, 8)).as_json()["query_images"] == 30


def test_nothing_is_written_when_the_runner_has_gone(tmp_path, make_cell):
    def gone(_event):
        raise SystemExit(1)

    cell = make_cell()
    folder = Store(tmp_path).folder(cell)
    with pytest.raises(SystemExit):
        run_cell(cell, folder, RunOptions(), gone)
    assert Store(tmp_path).state(cell) == "missing"


def test_an_interrupted_cell_goes_on_to_the_same_numbers(tmp_path, small):
    whole, expected = run(small, tmp_path / "whole")
    for epoch in (0, 1, 2, 3):
        with pytest.raises(SystemExit):
            run(small, tmp_path / "parts", emit=stopping_at(epoch))
        assert Store(tmp_path / "parts").state(small) == "interrupted"
    parts, summary = run(small, tmp_path / "parts")
    assert numbers(parts) == numbers(whole)
    assert summary.selections == expected.selections
    assert (expected.resumed, summary.resumed) == ([], [0, 1, 2, 3])
    assert sorted(path.name for path in parts.iterdir()) == ["history.csv", "log.txt", "spec.yaml", "summary.json"]
    log = (parts / "log.txt").read_text()
    assert [log.count(f"epoch {epoch} of 3 begins") for epoch in (1, 2, 3)] == [1, 1, 1]
    assert summary.total_s > summary.timing.train_s + summary.timing.evaluation_s


def test_what_other_code_began_is_begun_again(tmp_path, small, monkeypatch):
    with pytest.raises(SystemExit):
        run(small, tmp_path, emit=stopping_at(2))
    monkeypatch.setattr(module.provenance, "code_digest", lambda: "other")
    folder, summary = run(small, tmp_path)
    assert summary.resumed == []
    assert "checkpoint.pt: is of another run (code " in (folder / "log.txt").read_text()


def test_times_of_two_loads_compare_with_no_other(tmp_path, small):
    with pytest.raises(SystemExit):
        run(small, tmp_path, emit=stopping_at(1), options=RunOptions(device="cpu", processes=2))
    _, summary = run(small, tmp_path, options=RunOptions(device="cpu", processes=1))
    assert summary.environment.machine == f"several, cell {small.hash[:8]}"
    assert len(summary.environment.places) == 2


def test_a_disk_that_is_full_at_any_write_costs_no_epoch_before_it(tmp_path, small, monkeypatch):
    """ENOSPC at every write in turn: nothing is half-written, and the cell goes on to the same numbers."""
    whole, _ = run(small, tmp_path / "whole")
    real, count = os.fsync, 0

    def counted(descriptor):
        nonlocal count
        count -= 1
        if count == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    for write in range(1, 100):
        root, events, count = tmp_path / str(write), [], write
        folder, summary = run(small, root, emit=events.append)
        hit = count <= 0
        if summary is None:
            assert hit
            assert isinstance(events[-1], Halted)
            assert "cannot be written (No space left on device)" in events[-1].error.message
            _check_whole_files(folder)
            count = 0
            _, summary = run(small, root)
        assert summary.status == "done"
        assert numbers(folder) == numbers(whole)
        if not hit:
            break
    assert write > 15


def _check_whole_files(folder):
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
    if (folder / "history.csv").exists():
        assert len({len(row) for row in numbers(folder)}) == 1
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


def test_a_cell_that_another_host_took_over_writes_nothing_more(tmp_path, small, monkeypatch):
    events = []

    def lose(event):
        events.append(event)
        if isinstance(event, Epoch) and event.epoch == 1:
            monkeypatch.setattr("dmlbench.results.locks.read_owner", lambda _: None)

    folder, summary = run(small, tmp_path, emit=lose)
    assert summary is None
    assert (type(events[-1]), events[-1].error.kind) == (Halted, "claim")
    assert "another process has taken over" in events[-1].error.message
    assert len(numbers(folder)) == 3  # a header, and the epochs before


def test_a_failure_is_replaced_by_who_was_told_to_and_once(tmp_path, small, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_train", broken)
        folder, summary = run(small, tmp_path)
    assert summary.status == "failed"
    failure, events = ended_at(folder), []
    run_cell(small, folder, RunOptions(device="cpu"), events.append)  # planned before it had failed
    assert events == [Claimed(done=True)]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_train", broken)
        run_cell(small, folder, RunOptions(device="cpu"), events.append, failure)
    assert isinstance(events[-1], Finished)
    run_cell(small, folder, RunOptions(device="cpu"), events.append, failure)  # another that was told to, too late
    assert events[-1] == Claimed(done=True)
    run_cell(small, folder, RunOptions(device="cpu"), events.append, ended_at(folder))
    assert read_summary(folder).status == "done"


def test_a_folder_that_cannot_be_claimed_is_no_failure(tmp_path, small, monkeypatch):
    events = []

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    _, summary = run(small, tmp_path, emit=events.append)
    assert summary is None
    assert [type(event) for event in events] == [Halted]
    assert "No space left" in events[0].error.message


def test_a_state_that_cannot_be_restored_says_so_and_begins_again(tmp_path, small, monkeypatch):
    with pytest.raises(SystemExit):
        run(small, tmp_path, emit=stopping_at(1))
    with monkeypatch.context() as patch:
        patch.setattr("dmlbench.training.trainer.Trainer.restore", lambda *_: {}["queue"])
        folder, summary = run(small, tmp_path)
    assert "state cannot be restored (KeyError: 'queue')" in summary.error.message
    run_cell(small, folder, RunOptions(device="cpu"), lambda _: None, ended_at(folder))
    assert read_summary(folder).status == "done"


def test_a_metric_that_is_not_finite_is_a_failure_with_its_name(tmp_path, small, monkeypatch):
    calls = iter([1.0, 1.0, float("nan")])
    monkeypatch.setattr("dmlbench.training.evaluator.geometry_metrics", lambda *_: {"spectral_decay": next(calls)})
    events = []
    folder, summary = run(small, tmp_path, emit=events.append)
    assert summary.status == "failed"
    assert summary.error.kind == "diverged"
    assert summary.error.message == "test: spectral_decay is nan at epoch 2"
    assert events[-1] == Finished(summary.error)
    assert [row[0] for row in numbers(folder)] == ["epoch", "0", "1"]


def test_memory_that_a_gpu_lacks_says_what_helps(failing):
    fit, summary, _ = failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "cuda:0")
    assert not fit
    assert summary.error.kind == "memory"
    assert "CUDA out of memory" in summary.error.message
    assert "--per-gpu" in summary.error.message


@pytest.mark.parametrize(
    "said",
    [
        "unable to allocate shared memory(shm) for file </torch_86_17_0>: No space left on device (28)",
        "DataLoader worker (pid 7) is killed by signal: Bus error. Its workers may be out of shared memory.",
        "unable to write to file </torch_86_17_0>: No space left on device (28)",
    ],
)
def test_loaders_without_shared_memory_are_told_what_helps(failing, said):
    _, summary, _ = failing(RuntimeError(said), "cpu")
    assert summary.error.message == f"{said}; what helps: --data-workers 0, or a larger /dev/shm"


def test_a_message_of_megabytes_is_kept_and_said_in_part(failing):
    _, summary, _ = failing(RuntimeError("x" * 3_000_000), "cpu")
    assert len(summary.error.message) <= 20_000
    assert len(one_line(summary.error.message)) < 1_100


NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "CUDNN_STATUS_ALLOC_FAILED")


@pytest.mark.parametrize("said", NO_MEMORY)
def test_memory_that_a_library_of_cuda_lacks_is_memory(failing, said):
    assert failing(RuntimeError(f"CUDA error: {said}"), "cuda:0")[1].error.kind == "memory"


PROXIES = """
import torch

class Proxies(torch.nn.Module):
    def __init__(self, num_classes, embedding_dim):
        super().__init__()
        self.proxies = torch.nn.Linear(embedding_dim, num_classes, bias=False)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, embeddings, labels, generator=None):
        return torch.nn.functional.cross_entropy(self.scale * self.proxies(embeddings), labels)
"""


def test_what_a_loss_learns_at_the_networks_rate_is_on_record(small, tmp_path):
    (tmp_path / "proxies.py").write_text(PROXIES)
    where = {"class_name": "Proxies", "plugin": str(tmp_path / "proxies.py"), "parameters": {}}
    where["plugin_sha256"] = plugin_digest(tmp_path / "proxies.py")
    losses = {}
    for name in ("proxies", "proxies.weight"):
        rates = {name: ResolvedValue(value=0.5, source="a test")}
        loss = small.method.loss.model_copy(update=where | {"learning_rates": rates})
        cell = replace(small, method=small.method.model_copy(update={"loss": loss, "distillation": None}))
        folder, summary = run(cell, tmp_path / name)
        assert summary.at_networks_rate == ["scale"]
        losses[name] = numbers(folder)
    assert losses["proxies"] == losses["proxies.weight"]
    assert run(small, tmp_path / "runs")[1].at_networks_rate == []


def test_a_dear_checkpoint_is_written_seldom_and_when_the_cell_is_to_stop(tmp_path, small, monkeypatch):
    """Where writing takes as long as ten epochs, the beginning, the epoch of the stop and the end are written."""
    written, save = [], module.checkpoint.save

    def slow(folder, past):
        save(folder, past)
        written.append(past.epoch)

    monkeypatch.setattr(module.checkpoint, "save", slow)
    monkeypatch.setattr(module.checkpoint, "CHEAP_SECONDS", 0.0)
    monkeypatch.setattr(module.checkpoint, "TIMES", 1e9)
    monkeypatch.setattr(module.checkpoint, "LONGEST_SECONDS", 1e9)
    whole, _ = run(small, tmp_path / "whole")
    assert written == [0, 3]
    written.clear()
    with pytest.raises(SystemExit):
        run(small, tmp_path / "stopped", emit=stopping_at(2))
    assert written == [0, 2]
    folder, summary = run(small, tmp_path / "stopped")
    assert summary.resumed == [2]
    assert numbers(folder) == numbers(whole)
