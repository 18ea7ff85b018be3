import json
import shutil
from pathlib import Path

import pytest

from dmlbench.selection import selections
from dmlbench.store import CellWriter, Store
from dmlbench.timings import timing
from dmlbench.verification import problems

ROOT = Path(__file__).parent.parent


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def finished(store, make_cell):
    """The folder of a whole result of three epochs."""
    cell = make_cell(epochs=3)
    store.plan([cell])
    writer = CellWriter(store.folder(cell))
    times = {f"time/{name}_s": 0.1 for name in ("train", "evaluation", "forward")}
    for epoch in range(4):
        trained = {"train/loss": 1 / 3, "time/step_ms": 0.5} if epoch else {}
        writer.append({"epoch": epoch, "test/recall_at_1": epoch / 7, **times, **trained})
    sums = {"selections": selections(writer.rows), "timing": timing(writer.rows)}
    writer.finish({"status": "done", "cell": cell.index(), "resumed": [], **sums})
    return writer.folder


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def finding(store, folder) -> str:
    found = problems(store)
    assert list(found) == [folder]
    assert len(found[folder]) == 1
    return found[folder][0]


def test_a_whole_result_and_a_plan_have_no_problem(store, finished, make_cell):
    store.plan([make_cell(seed=1)])
    assert problems(store) == {}


def test_the_committed_results_are_what_they_say():
    assert problems(Store(ROOT / "results" / "reference")) == {}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("learning_rate: 0.001", "learning_rate: 0.002", "its values give"),
        ("seed: 0", "seed: 1", "its values give"),
        ("hash: ", "hash: ffff", "spec.yaml: says hash ffff"),
        ("protocol:", "protocols:", "not a readable spec"),
    ],
)
def test_a_spec_edited_by_hand(store, finished, old, new, told):
    edit(finished / "spec.yaml", old, new)
    found = problems(store)[finished]
    assert told in found[0]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"recall_at_1": 0.42857142857142855', '"recall_at_1": 0.9', "selections does not follow from history.csv"),
        ('"step_ms": 0.5', '"step_ms": 0.1', "timing does not follow from history.csv"),
        ('"method": "ms"', '"method": "triplet"', "name the cell differently"),
        ('"hash": "', '"hash": "f', "summary.json is of cell f"),
        ('"version": 1', '"version": 2', "results version 2 is not known here"),
        ('"version": 1', '"version": 1 ,,', "damaged JSON"),
    ],
)
def test_a_summary_edited_by_hand(store, finished, old, new, told):
    edit(finished / "summary.json", old, new)
    assert told in finding(store, finished)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("0.3333333333333333", "0.2333333333333333", "is not the one that summary.json was written for"),
        ("0.42857142857142855", "0.9", "is not the one that summary.json was written for"),
        ("\n2,", "\n1,", "does not hold the epochs 0 to 3"),
        ("epoch,", "era,", "no column `epoch`"),
        ("0.42857142857142855", "high", "not a readable history"),
    ],
)
def test_a_history_edited_by_hand(store, finished, old, new, told):
    edit(finished / "history.csv", old, new)
    assert told in finding(store, finished)


def test_a_history_that_is_lost(store, finished):
    (finished / "history.csv").unlink()
    assert "does not hold the epochs 0 to 3" in finding(store, finished)


def test_older_results_without_a_digest_are_checked_by_their_sums(store, finished):
    summary = json.loads((finished / "summary.json").read_text())
    del summary["history_sha256"]
    (finished / "summary.json").write_text(json.dumps(summary))
    assert problems(store) == {}
    edit(finished / "history.csv", "0.42857142857142855", "0.9")
    assert "selections does not follow" in finding(store, finished)


def test_a_folder_copied_under_another_name(store, finished):
    copy = finished.with_name(finished.name.replace("seed0", "seed7"))
    shutil.copytree(finished, copy)
    assert "holds the spec of another cell, whose folder is tiny/glyphs/ms/seed0" in finding(store, copy)
