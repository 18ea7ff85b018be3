from types import SimpleNamespace

import pytest
import torch

from dmlbench import cell as module
from dmlbench.cell import run_cell
from dmlbench.errors import DivergedError, UserError
from dmlbench.run_options import RunOptions
from dmlbench.store import Store, read_summary


@pytest.fixture
def failing(tmp_path, monkeypatch, make_cell):
    """Runs a cell whose training raises, on a device of the given name; its fitness, its summary, its events."""

    def run(error: Exception, device: str):
        def train(*_):
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
    assert summary["status"] == "failed"
    assert summary["error"] == {"kind": "error", "class": "RuntimeError", "message": "no such kernel"}
    assert (summary["environment"]["processes"], summary["environment"]["data_workers"]) == (2, 1)
    assert len(summary["environment"]["machine"]) == 12
    assert len(summary["code"]["digest"]) == 16
    assert [event["event"] for event in events] == ["started", "finished"]


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
        return SimpleNamespace(labels=range(images), class_names=range(classes))

    dataset = SimpleNamespace(fingerprint="f00d", train=split(200, 10), test=split(80, 4))
    counts = module._dataset(make_cell(), dataset, split(160, 8))
    assert {key: value for key, value in counts.items() if key.endswith(("_images", "_classes"))} == {
        "train_images": 160,
        "train_classes": 8,
        "held_out_images": 40,
        "held_out_classes": 2,
        "test_images": 80,
        "test_classes": 4,
    }


def test_nothing_is_written_when_the_runner_has_gone(tmp_path, make_cell):
    def gone(_event):
        raise SystemExit(1)

    cell = make_cell()
    folder = Store(tmp_path).folder(cell)
    with pytest.raises(SystemExit):
        run_cell(cell, folder, RunOptions(), gone)
    assert Store(tmp_path).state(cell) == "interrupted"
