"""Several results folders are read as one."""

import re
import shutil
from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.results.claims import declare, declared_claims
from dmlbench.results.frames import load_history, load_results
from dmlbench.results.measurements import read_measurements, write_measurement
from dmlbench.results.store import Roots, Store
from dmlbench.specs.study import parse_claim
from tests.begun import begin, ended
from tests.fake_measurements import make_measurement
from tests.results.test_results import ROWS, failure, write


@pytest.fixture
def mine(tmp_path):
    return tmp_path / "mine" / "runs"


@pytest.fixture
def theirs(tmp_path):
    return tmp_path / "theirs" / "runs"


def test_disjoint_seeds_of_two_folders_are_one_table(mine, theirs, make_cell):
    for seed in range(4):
        write(mine if seed < 2 else theirs, make_cell(seed=seed))
    for load in (load_results, load_history):
        table = load([mine, theirs])
        assert sorted(table["seed"].unique()) == [0, 1, 2, 3]
        assert len(table) == len(load(mine)) + len(load(theirs))


def test_a_cell_that_is_in_both_counts_once(mine, theirs, make_cell):
    write(mine, make_cell())
    shutil.copytree(mine, theirs)
    found = []
    assert load_results([theirs, mine], found.append).equals(load_results(theirs))
    assert len(load_history([mine, theirs], found.append)) == len(load_history(mine))
    assert found == []


def test_other_metrics_of_the_same_cell_are_named_and_left_out(mine, theirs, make_cell):
    counts = write(mine, make_cell())
    other = write(theirs, make_cell(), rows=[*ROWS[:2], {**ROWS[2], "test/recall_at_1": 0.31}])
    found = []
    table = load_results([mine, theirs], found.append)
    assert table.loc[table["selection"] == "last", "recall_at_1"].tolist() == [0.3]
    assert [(own.path, own.reason) for own in found] == [
        (
            other,
            f"{other}: has other metrics than the same cell in {counts}, which counts; it comes first among --results",
        )
    ]
    turned = load_results([theirs, mine], lambda _: None)
    assert turned.loc[turned["selection"] == "last", "recall_at_1"].tolist() == [0.31]


def test_a_result_counts_before_a_failure(mine, theirs, make_cell):
    write(mine, make_cell(), rows=ROWS[:1], **failure())
    write(theirs, make_cell())
    for folders in ([mine, theirs], [theirs, mine]):
        found = []
        assert set(load_results(folders, found.append)["status"]) == {"done"}
        assert found == []


def test_folders_that_cannot_be_merged(mine, theirs, make_cell):
    write(mine, make_cell())
    with pytest.raises(UserError, match="name at least one folder"):
        Roots.of([])
    with pytest.raises(UserError, match="is given twice"):
        load_results([mine, mine.parent / "x" / ".." / "runs"])
    with pytest.raises(UserError, match="no such results folder"):
        load_results([mine, theirs])
    theirs.mkdir(parents=True)
    with pytest.raises(UserError, match="no cells yet"):
        load_results([mine, theirs])
    with pytest.raises(UserError, match=r"no cells yet; name .*theirs/runs with --results"):
        load_results([mine, theirs.parent])


@pytest.mark.parametrize("name", ["spec.yaml", "history.csv"])
def test_a_damaged_copy_does_not_hide_the_sound_one(mine, theirs, make_cell, name):
    folder = write(mine, make_cell())
    shutil.copytree(mine, theirs)
    (folder / name).write_text("{")
    for load in (load_results, load_history):
        found = []
        assert len(load([mine, theirs], found.append)) == len(load(theirs))
        assert [own.path for own in found] == [folder]


def test_of_several_a_path_is_of_the_innermost_folder(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    both = Roots((Path(), Path("runs")))
    assert both.label(tmp_path / "runs" / "x") == "runs/x"
    assert both.label(Path("x")) == f"{tmp_path.name}/x"


def test_paths_are_named_for_readers_elsewhere(mine, theirs):
    assert Roots((mine,)).label(mine / "tiny" / "x") == "tiny/x"
    both = Roots((mine, theirs))
    assert both.label(mine / "tiny" / "x") == "runs/tiny/x"
    assert both.label(theirs / "tiny" / "x") == "runs-2/tiny/x"


CLAIM = parse_claim("psd:ms,margin")


def claimed(root, make_cell, *seeds, **changes):
    """Declare the claim for these seeds, and plan its cells."""
    cells = [make_cell(name, seed=seed, **changes) for name in CLAIM.methods for seed in seeds]
    root.mkdir(parents=True, exist_ok=True)
    declare([CLAIM], cells, Store(root))
    Store(root).plan(cells)


def test_a_claim_of_two_machines_is_one(mine, theirs, make_cell):
    claimed(mine, make_cell, 0, 1)
    claimed(theirs, make_cell, 2, 3)
    (found,) = declared_claims([mine, theirs])
    assert len(found.cells) == 16
    assert (found.begun, found.when.endswith("before its first cell")) == (0, True)
    assert len(declared_claims([mine])[0].cells) == 8
    copy = shutil.copytree(mine, mine.parent / "copy")
    assert declared_claims([mine, copy]) == declared_claims([mine])
    assert declared_claims([mine, theirs, copy]) == [found]


@pytest.mark.parametrize("changes", [{"dataset": "omniglot-small"}, {"batch_size": 56}])
def test_claims_on_something_else_stay_apart(mine, theirs, make_cell, changes):
    claimed(mine, make_cell, 0, 1)
    claimed(theirs, make_cell, 2, 3, **changes)
    assert [len(found.cells) for found in declared_claims([mine, theirs])] == [8, 8]


def test_a_claim_that_goes_on_where_another_was_seen_is_after_the_fact(mine, theirs, make_cell):
    """Each was declared before its own cells, but the second when those of the first had begun."""
    claimed(mine, make_cell, 0, 1)
    (written,) = (mine / "claims").glob("*.yaml")
    written.write_text(re.sub(r"declared: .*", "declared: '2026-01-01T03:04:05+00:00'", written.read_text()))
    for name in CLAIM.methods:
        finish(mine, make_cell(name), started="2026-01-02T03:04:05+00:00")
    claimed(theirs, make_cell, 2, 3)
    (found,) = declared_claims([mine, theirs])
    assert found.when.startswith("after the fact: ")
    assert found.when.endswith("when 4 of its 16 cells had begun")
    assert declared_claims([mine])[0].begun == 0


def test_the_earliest_beginning_of_a_cell_counts(mine, theirs, make_cell):
    """The same cell ran elsewhere before the claim on it was declared here."""
    finish(mine, make_cell(), started="2026-01-02T03:04:05+00:00")
    claimed(theirs, make_cell, 0)
    assert declared_claims([theirs])[0].begun == 0
    assert [found.begun for found in declared_claims([mine, theirs])] == [1]


def test_a_claim_that_was_late_on_one_machine_is_late(mine, theirs, make_cell):
    write(theirs, make_cell(seed=1))
    claimed(mine, make_cell, 0)
    claimed(theirs, make_cell, 1)
    (found,) = declared_claims([mine, theirs])
    assert found.when.startswith("after the fact: ")
    assert found.when.endswith("when 1 of its 8 cells had begun")


def finish(root, cell, **changes):
    writer = begin(Store(root), cell)
    writer.append(ROWS[0])
    writer.finish(ended(cell, **changes))


def test_a_measurement_that_both_hold_is_there_once(mine, theirs):
    write_measurement(mine, make_measurement())
    shutil.copytree(mine, theirs)
    assert len(read_measurements([mine, theirs])) == 1
