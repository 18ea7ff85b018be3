import json
import shutil
from pathlib import Path

import pytest

from dmlbench.results.history import selections, timing
from dmlbench.results.status import overview, problems
from dmlbench.results.store import Roots, Store
from dmlbench.results.writer import CellWriter
from tests.begun import ended

ROOT = Path(__file__).parents[2]


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
    about = {"initial_weights": "1234", "total_s": 4.0, "resumed": []}
    writer.finish(ended(cell, **about, **sums))
    return writer.folder


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def finding(store, folder) -> str:
    found = problems(store)
    assert list(found) == [folder]
    return "; ".join(found[folder])


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
        ('"hash": "', '"hash": "f', "not a summary (cell.hash: "),
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
        ("0.3333333333333333", "0.2333333333333333", "history.csv is not as it was written"),
        ("0.42857142857142855", "0.9", "history.csv is not as it was written"),
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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"fingerprint": "f00d"', '"fingerprint": "cafe"'),
        ('"initial_weights": "1234"', '"initial_weights": "5678"'),
        ('"total_s": 4.0', '"total_s": 1.0'),
        ('"digest": "', '"digests": "'),
    ],
)
def test_what_no_other_file_tells_has_a_digest(store, finished, old, new):
    edit(finished / "summary.json", old, new)
    assert "summary.json is not as it was written: its digest differs" in finding(store, finished)


def test_kept_files_are_held_to_their_digest(store, finished, make_cell):
    (finished / "weights.safetensors").write_bytes(b"late")
    assert finding(store, finished) == "weights.safetensors came after summary.json"
    writer = CellWriter(finished)
    summary = json.loads((finished / "summary.json").read_text())
    writer.finish({key: value for key, value in summary.items() if key != "digest"})
    (finished / "weights.safetensors").write_bytes(b"other")
    assert "weights.safetensors is not as it was written" in finding(store, finished)
    (finished / "weights.safetensors").unlink()
    assert "weights.safetensors is missing" in finding(store, finished)


def test_a_result_whose_spec_is_lost_is_seen(store, finished):
    (finished / "spec.yaml").unlink()
    assert "spec.yaml: not a readable spec" in finding(store, finished)


def test_a_history_cut_at_any_byte(store, finished):
    whole = (finished / "history.csv").read_bytes()
    for length in range(len(whole)):
        (finished / "history.csv").write_bytes(whole[:length])
        assert finding(store, finished)
        (cell,) = overview(Roots.of(store.root))
        assert cell.state in ("done", "damaged")


def test_a_folder_copied_under_another_name(store, finished):
    copy = finished.with_name(finished.name.replace("seed0", "seed7"))
    shutil.copytree(finished, copy)
    assert "holds the spec of another cell, whose folder is tiny/glyphs/ms/seed0" in finding(store, copy)
