from dataclasses import replace

from dmlbench.results import writer as module
from dmlbench.results.locks import claim, this_host
from dmlbench.results.status import overview
from dmlbench.results.store import Roots, Store
from dmlbench.results.writer import CellWriter, file_digest
from tests.begun import ended


def row(epoch: int, seconds: float = 2.0) -> dict:
    return {"epoch": epoch, "time/train_s": seconds if epoch else None, "time/evaluation_s": 1.0}


def write(store: Store, cell, epochs: int = 0, **summary) -> CellWriter:
    store.plan([cell])
    writer = CellWriter(store.folder(cell))
    for epoch in range(epochs):
        writer.append(row(epoch))
    if summary:
        writer.finish(ended(cell, **summary))
    return writer


def test_every_state_of_a_cell(store, make_cell):
    cells = [make_cell(seed=seed, epochs=9) for seed in range(6)]
    write(store, cells[0], 10, status="done", code={"digest": "abcd"})
    write(store, cells[1], 4)
    write(store, cells[2], 3, status="failed", error={"kind": "diverged", "message": "loss is nan"})
    write(store, cells[3], 4)
    write(store, cells[4])
    write(store, cells[5]).folder.joinpath("summary.json").write_text("{")
    with claim(store.folder(cells[1])) as claimed:
        assert claimed
        found = overview(Roots.of(store.root))
    assert [cell.state for cell in found] == ["done", "running", "failed", "interrupted", "missing", "damaged"]
    done, running, failed, interrupted, missing, damaged = found
    assert (done.epoch, done.epochs, done.recall_at_1, done.code) == (9, 9, 0.5, "abcd")
    assert (running.epoch, running.epochs, running.seconds_left) == (3, 9, 18.0)  # six epochs of three seconds
    assert running.host == this_host()[1]
    assert (failed.epoch, failed.why) == (2, "diverged: loss is nan")
    assert (interrupted.epoch, interrupted.seconds_left, interrupted.host) == (3, None, "")
    assert (missing.epoch, missing.epochs) == (0, 9)
    assert "damaged JSON" in damaged.why
    assert [cell.cell and cell.cell.seed for cell in found] == [0, 1, 2, 3, 4, None]


def test_a_result_whose_files_changed_is_damaged(store, make_cell):
    writer = write(store, make_cell(), 3, status="done")
    (writer.folder / "history.csv").write_text("epoch\n0\n")
    (found,) = overview(Roots.of(store.root))
    assert found.state == "damaged"
    assert found.why == f"{writer.folder}: history.csv is not as it was written"


def test_large_kept_files_are_not_read_for_a_look(store, make_cell, monkeypatch):
    cell = make_cell()
    store.plan([cell])
    writer = CellWriter(store.folder(cell))
    (writer.folder / "weights.safetensors").write_bytes(b"large")
    writer.append(row(0))
    writer.finish(ended(cell))
    read = []
    monkeypatch.setattr(module, "file_digest", lambda path: (read.append(path.name), file_digest(path))[1])
    assert [found.state for found in overview(Roots.of(store.root))] == ["done"]
    assert sorted(read) == ["history.csv", "spec.yaml"]


def test_the_time_left_is_unknown_before_the_first_epoch_ends(store, make_cell):
    cell = make_cell(epochs=9)
    write(store, cell, 1)
    with claim(store.folder(cell)):
        (found,) = overview(Roots.of(store.root))
    assert (found.state, found.epoch, found.seconds_left) == ("running", 0, None)


def test_equal_values_are_one_group_however_they_were_set(store, make_cell):
    """An earlier release recorded what was typed, also where it is the default."""
    for seed, typed in enumerate([(), ("loss.alpha=2.0",), ("training.batch_size=112",)]):
        write(store, replace(make_cell(seed=seed), overrides=typed), 4, status="done")
    cells = overview(Roots.of(store.root))
    assert len({cell.cell.variant for cell in cells if cell.cell}) == 3  # as recorded
    made_of = {replace(cell.facts, seed=0, hash="") for cell in cells if cell.facts}
    assert len(made_of) == 1


def test_of_a_cell_in_two_folders_the_state_that_came_furthest_counts(store, tmp_path, make_cell):
    other = Store(tmp_path / "theirs")
    write(store, make_cell(), 2)
    write(other, make_cell(), 4, status="done")
    write(other, make_cell(seed=1))
    cells = overview(Roots.of([store.root, other.root]))
    assert [(cell.state, cell.folder.is_relative_to(other.root)) for cell in cells] == [
        ("done", True),
        ("missing", True),
    ]
