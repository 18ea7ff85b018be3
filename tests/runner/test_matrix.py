import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from dmlbench.data.catalogue import dataset_info
from dmlbench.errors import UserError
from dmlbench.results.locks import claim
from dmlbench.results.store import Store
from dmlbench.runner import matrix
from dmlbench.runner.execution import Execution
from dmlbench.runner.matrix import (
    Request,
    data_folder,
    expected_seconds,
    make_ready,
    notes,
    pending,
    plan,
    rivals,
)
from dmlbench.specs.protocol import load_protocol
from tests.begun import begin, ended

PULL = """\
name: pull
title: Pull
kind: loss
class: Pull
plugin: pull.py
paper: {title: none, authors: nobody, venue: nowhere}
parameters: {}
"""
PLAN_ONLY = """
import sys
from dmlbench.runner.matrix import Request, expected_seconds, pending, plan
from dmlbench.results.store import Store
from pathlib import Path
cells = plan(Request(("ms", "ms+obdsd"), ("glyphs", "omniglot-small"), (0, 1)))
assert len(pending(cells, Store(Path("nowhere")), retry_failed=True)) == 8
assert expected_seconds(cells, Store(Path("nowhere"))) is None
print(sorted({"torch", "torchvision", "timm", "faiss", "sklearn", "pandas", "mlflow", "matplotlib"} & set(sys.modules)))
"""


@pytest.fixture(autouse=True)
def _alone(empty_folder):
    """No `./methods` but what a test puts there."""


def request(methods=("ms",), datasets=("glyphs",), seeds=(0,), **more) -> Request:
    return Request(methods, datasets, seeds, **more)


def refusal(*args, **more) -> str:
    with pytest.raises(UserError) as caught:
        plan(request(*args, **more))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def finish(store: Store, cell, status="done", total_s=10.0) -> None:
    begin(store, cell).finish(ended(cell, status, total_s=total_s))


def test_whole_seeds_finish_first():
    cells = plan(request(("ms", "triplet+psd"), ("glyphs", "omniglot-small"), (4, 0)))
    assert [cell.label for cell in cells] == [
        "ms on glyphs, seed 4",
        "triplet+psd on glyphs, seed 4",
        "ms on omniglot-small, seed 4",
        "triplet+psd on omniglot-small, seed 4",
        "ms on glyphs, seed 0",
        "triplet+psd on glyphs, seed 0",
        "ms on omniglot-small, seed 0",
        "triplet+psd on omniglot-small, seed 0",
    ]
    assert len({cell.hash for cell in cells}) == 8
    assert {cell.dataset.version for cell in cells} != {""}


def test_every_dataset_has_its_protocol_and_overrides():
    for cell in plan(request(datasets=("glyphs", "omniglot-small"))):
        assert cell.protocol == load_protocol(dataset_info(cell.dataset.name).default_protocol, cell.dataset.name)
    (chosen,) = plan(request(protocol="resnet50-128"))
    assert chosen.protocol.name == "resnet50-128"


def test_settings_reach_protocol_and_methods():
    settings = ("training.epochs=3", "loss.margin=0.3", "distillation.lambda=7")
    ms, triplet, distilled = plan(request(("ms", "triplet", "ms+psd"), settings=settings))
    assert {cell.protocol.training.epochs for cell in (ms, triplet, distilled)} == {3}
    assert triplet.method.loss.values()["margin"] == 0.3
    assert "margin" not in ms.method.loss.values()
    assert distilled.method.distillation.values()["lambda"] == 7.0
    assert ms.index()["variant"] == "training.epochs=3"  # only what changed this cell
    assert triplet.index()["variant"] == "loss.margin=0.3, training.epochs=3"
    assert distilled.index()["variant"] == "distillation.lambda=7, training.epochs=3"
    assert plan(request(settings=settings[:1]))[0].hash == ms.hash  # a setting it does not have changes no cell


def test_a_methods_folder_and_a_users_protocol(tmp_path, empty_folder):
    mine = tmp_path / "mine"
    mine.mkdir()
    own = (Path(matrix.__file__).parents[2] / "methods" / "ms.yaml").read_text()
    (mine / "ms.yaml").write_text(own.replace("alpha: {value: 2.0", "alpha: {value: 5.0"))
    assert plan(request(methods_dir=mine))[0].method.loss.values()["alpha"] == 5.0
    shipped = (Path(matrix.__file__).parents[1] / "protocols" / "conv4-64.yaml").read_text()
    Path("quick.yaml").write_text(shipped.replace("name: conv4-64", "name: quick"))
    assert plan(request(protocol="quick.yaml"))[0].protocol.name == "quick"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": ("ms", "mss")}, "unknown method 'mss'; did you mean 'ms'?"),
        ({"methods": ("obdsd",)}, "'obdsd' is a modifier and needs a base"),
        ({"datasets": ("glyps",)}, "unknown dataset 'glyps'; did you mean 'glyphs'?"),
        ({"datasets": ("glyps",), "protocol": "conv4-64"}, "unknown dataset 'glyps'; did you mean 'glyphs'?"),
        ({"protocol": "conv4"}, "unknown protocol 'conv4'; did you mean 'conv4-64'?"),
        ({"settings": ("training.epoch=3",)}, "--set: training: unknown key 'epoch'"),
        ({"settings": ("epochs=3",)}, "--set 'epochs=3': not the full key; --set training.epochs=3"),
        (
            {"settings": ("loss.margin=3",)},
            "--set loss.margin: no chosen method has this parameter; valid: alpha, base, beta, epsilon",
        ),
        (
            {"settings": ("distillation.lambda=3",)},
            "--set distillation.lambda: no chosen method has this parameter; none of the methods has a distillation",
        ),
        ({"methods": ("ms+psd",), "settings": ("distillation.omega=0",)}, "--set distillation.omega: no chosen"),
        ({"methods": ("ms+psd",), "settings": ("distillation.tau=0",)}, "--set distillation: parameters: tau: "),
        ({"methods_dir": Path("nowhere")}, "--methods-dir nowhere: no such folder"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(wrong, message, empty_folder):
    assert refusal(**wrong).startswith(message)
    assert list(empty_folder.iterdir()) == []


def test_planning_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", PLAN_ONLY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_what_is_pending(store, make_cell):
    cells = [make_cell(seed=seed) for seed in range(5)]
    missing, interrupted, running, done, failed = cells
    begin(store, interrupted).append({"epoch": 0})
    begin(store, running)
    finish(store, done)
    finish(store, failed, "failed")
    with claim(store.folder(running)) as claimed:
        assert claimed
        assert [store.state(cell) for cell in cells] == ["missing", "interrupted", "running", "done", "failed"]
        # Its owner may die, so what runs elsewhere is looked at again, after all else.
        assert pending(cells, store, retry_failed=False) == [missing, interrupted, running]
        assert pending(cells, store, retry_failed=True) == [missing, interrupted, failed, running]


def test_expected_seconds_from_the_same_method_dataset_and_protocol(store, make_cell):
    for seed, seconds in enumerate((10.0, 30.0, 14.0)):
        finish(store, make_cell("ms", seed=seed), total_s=seconds)
    finish(store, make_cell("ms", seed=3), "failed", total_s=1000.0)
    finish(store, make_cell("ms", seed=4, dataset="omniglot-small"), total_s=500.0)
    finish(store, make_cell("ms", seed=4, epochs=9), total_s=700.0)
    assert expected_seconds([make_cell("ms", seed=7)], store) == 14.0
    assert expected_seconds([make_cell("ms", seed=7), make_cell("ms", seed=8)], store) == 28.0


def test_expected_seconds_of_another_method_and_of_the_unknown(store, make_cell):
    finish(store, make_cell("ms"), total_s=10.0)
    finish(store, make_cell("triplet"), total_s=20.0)
    assert expected_seconds([make_cell("margin")], store) == 15.0  # any method on this dataset is the best guess
    assert expected_seconds([make_cell("ms", epochs=9)], store) is None
    assert expected_seconds([make_cell("ms"), make_cell("ms", epochs=9)], store) == 20.0
    assert expected_seconds([], store) is None
    assert expected_seconds([make_cell()], Store(store.root / "nowhere")) is None


def test_results_of_another_spec_under_the_same_names(store, make_cell):
    old, also_old, failed = make_cell("ms", epochs=9), make_cell("ms", seed=1, epochs=9), make_cell("ms", epochs=8)
    finish(store, old)
    finish(store, also_old)
    finish(store, failed, "failed")
    finish(store, make_cell("ms", seed=2))
    finish(store, dataclasses.replace(make_cell("ms", epochs=7), overrides=("training.epochs=7",)))
    cells = [make_cell("ms", seed=seed) for seed in range(3)] + [make_cell("ms+psd")]
    assert [folder for _, folder in rivals(cells, store)] == [store.folder(old), store.folder(also_old)]
    assert rivals(cells[3:], store) == []
    (line,) = notes(cells, cells, Execution(store))
    assert line.startswith("note: 2 results here have another spec under names of this run, such as ")
    assert "(protocol.training.epochs 9, 2)" in line
    (store.folder(old) / "spec.yaml").write_text("- a")
    (line,) = notes(cells, cells, Execution(store))  # what is damaged is named elsewhere
    assert line.startswith(
        f"note: 1 result here has another spec under names of this run, such as {store.folder(also_old)} "
    )


def test_notes_before_a_run(store, make_cell):
    done, new = make_cell(), make_cell("ms+psd", epochs=1)
    finish(store, done)
    kept, alone = notes([done, new], [new], Execution(store, keep=("weights",)))
    assert kept == "note: 1 of the cells that are there has no weights; another --results folder runs it again"
    assert alone == "note: with one epoch no teacher acts; ms+psd trains like its base"
    (store.folder(done) / "weights.safetensors").touch()
    assert notes([done], [], Execution(store, keep=("weights",))) == []
    assert notes([new], [make_cell("triplet", epochs=1), make_cell("ms+psd")], Execution(store)) == []
    short = plan(request(("ms+dm2", "ms+psd", "ms+s2sd", "triplet+obdsd"), settings=("training.epochs=1",)))
    (several,) = notes(short, short, Execution(store))
    assert several == "note: with one epoch no teacher acts; ms+psd, triplet+obdsd train like their bases"


def test_a_plugin_that_does_not_load_is_found_before_any_cell(store, empty_folder):
    (empty_folder / "pull.yaml").write_text(PULL)
    (empty_folder / "pull.py").write_text("import nowhere_to_be_found")
    cells = plan(request(("pull", "ms"), methods_dir=empty_folder))
    with pytest.raises(UserError, match=r"pull\.py: plugin: ModuleNotFoundError: No module named"):
        make_ready(cells, Execution(store), print)
    assert not store.root.exists()


def test_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("DMLBENCH_DATA", raising=False)
    assert data_folder(None) is None
    monkeypatch.setenv("DMLBENCH_DATA", str(tmp_path))
    assert data_folder(None) == tmp_path
    assert data_folder(Path()) == Path()
    monkeypatch.setenv("DMLBENCH_DATA", "nowhere")
    with pytest.raises(UserError, match=r"^DMLBENCH_DATA nowhere: no such folder"):
        data_folder(None)
    with pytest.raises(UserError, match=r"^--data-dir elsewhere: no such folder"):
        data_folder(Path("elsewhere"))


def test_data_is_made_ready_before_results(store, make_cell, monkeypatch):
    asked = []

    def refuse(spec, data_dir, _log):
        asked.append((spec.name, data_dir))
        raise UserError("no data")

    monkeypatch.setattr(matrix, "prepare", refuse)
    with pytest.raises(UserError, match="no data"):
        make_ready([make_cell(seed=0), make_cell(seed=1)], Execution(store, data_dir=Path("data")), print)
    assert asked == [("glyphs", Path("data"))]
    assert not store.root.exists()
    monkeypatch.setattr(matrix, "prepare", lambda *_: None)
    make_ready([], Execution(store), print)
    assert not store.root.exists()
    make_ready([make_cell()], Execution(store), print)
    assert store.root.is_dir()
