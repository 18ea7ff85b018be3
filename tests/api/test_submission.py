"""A results folder as a contribution: what is checked, and what is packed."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from dmlbench.api.submission import check_submission, pack
from dmlbench.errors import UserError
from dmlbench.results.claims import declare
from dmlbench.specs.study import Claim
from tests.begun import begin, ended

WHOLE = {"environment": {"machine": "abcd", "cpu": "a processor", "torch": "2.14.1"}, "code": {"digest": "c0de"}}
TIMES = {"time/step_ms": 5.0, "time/train_s": 1.0, "time/evaluation_s": 1.0}
ROWS = [{"epoch": epoch, "test/recall_at_1": 0.1 * (epoch + 1)} | TIMES for epoch in range(3)]


def finish(store, cell, **changes) -> Path:
    writer = begin(store, cell)
    for row in ROWS:
        writer.append(row)
    writer.finish(ended(cell, **WHOLE | changes))
    return writer.folder


def of_problems(store) -> str:
    """What has to be mended, but for histories: these cells were not trained."""
    return "\n".join(line for line in check_submission(store.root).problems if "history.csv" not in line)


def test_what_is_packed_are_specs_histories_summaries_and_claims(store, make_cell, tmp_path):
    cells = [make_cell(), make_cell("ms+psd")]
    declare([Claim(modifier="psd", bases=("ms",))], cells, store)
    folders = [finish(store, cell) for cell in cells]
    (folders[0] / "log.txt").write_text("private\n")
    found = check_submission(store.root)
    archive = pack(store.root, found, tmp_path / "mine.tar.gz")
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
    assert {Path(member.name).name for member in members} >= {"spec.yaml", "history.csv", "summary.json"}
    assert len(members) == 2 * 3 + 1
    assert {member.name.split("/")[0] for member in members} == {"mine"}
    assert any("/claims/psd-" in member.name for member in members)
    assert not any("log.txt" in member.name for member in members)
    assert {(member.uid, member.uname) for member in members} == {(0, "")}
    assert "made on a processor, torch 2.14.1 (2 cells)" in found.notes


def test_a_damaged_row_of_what_was_not_trained_is_refused(store, make_cell):
    finish(store, make_cell())
    path = store.root / "evaluated" / "conv4-64" / "glyphs" / "mine.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert f"{path}: evaluation version None is not known here" in of_problems(store)
    assert path in check_submission(store.root).files


def test_an_archive_is_never_overwritten(store, make_cell, tmp_path):
    finish(store, make_cell())
    target = tmp_path / "mine.tar.gz"
    target.write_text("something else")
    with pytest.raises(UserError, match="exists already"):
        pack(store.root, check_submission(store.root), target)
    assert target.read_text() == "something else"


@pytest.mark.parametrize("name", ["mine.zip", "runs.tar.gz", "reference.tar.gz", ".tar.gz", "my lab.tar.gz"])
def test_an_archive_is_named_as_its_folder_in_results_will_be(store, make_cell, tmp_path, name):
    finish(store, make_cell())
    with pytest.raises(UserError, match=r"must be NAME\.tar\.gz, and NAME not runs or reference"):
        pack(store.root, check_submission(store.root), tmp_path / name)
    assert not list(tmp_path.glob("*.gz"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": {}}, "no machine"),
        ({"code": {}}, "no digest of the training code"),
        ({"error": None, "peak_memory_mb": {}, "notes": "/home/somebody/data"}, "absolute path /home/somebody/data"),
    ],
)
def test_what_nobody_could_check_is_a_problem(store, make_cell, changes, said):
    finish(store, make_cell(), **changes)
    assert said in of_problems(store)


@pytest.mark.parametrize("path", ["claims/mine.yaml", "overhead/mine.json", "tuning/tuned.yaml"])
def test_what_a_report_would_leave_out_is_a_problem(store, make_cell, path):
    finish(store, make_cell())
    (store.root / path).parent.mkdir()
    (store.root / path).write_text("{")
    assert path in of_problems(store)


def test_code_of_ones_own_is_named(store, make_cell):
    cell = make_cell()
    loss = cell.method.loss.model_copy(update={"name": "mine", "plugin": "mine/loss.py", "plugin_sha256": 64 * "a"})
    finish(store, replace(cell, method=cell.method.model_copy(update={"loss": loss})))
    own = "code of your own, to be added to the pull request: mine (mine/loss.py, SHA-256 aaaaaaaa)"
    assert own in check_submission(store.root).notes


def test_an_edited_summary_is_a_problem(store, make_cell):
    path = finish(store, make_cell()) / "summary.json"
    path.write_text(path.read_text().replace('"torch": "2.14.1"', '"torch": "2.14.2"'))
    assert "not as it was written" in of_problems(store)


def test_cells_without_a_result_are_left_out_and_said(store, make_cell):
    finish(store, make_cell())
    begin(store, make_cell(seed=1))
    found = check_submission(store.root)
    assert len(found.files) == 3
    assert found.notes[0] == "1 cell without a finished result is left out"


def test_a_folder_without_results_is_an_error(store, make_cell):
    begin(store, make_cell())
    with pytest.raises(UserError, match="no finished cells to submit"):
        check_submission(store.root)
