from dataclasses import replace
from pathlib import Path

import pytest

from dmlbench.errors import Damaged, StorageError, UserError
from dmlbench.results.locks import claim
from dmlbench.results.store import Store, folder_state, read_spec, read_summary, summary_as_written
from dmlbench.specs.cell import EVAL_TEACHER
from tests.begun import begin, ended


def test_a_cells_folder_is_named_by_what_it_is(store, make_cell):
    cell = make_cell("ms+psd", seed=3)
    assert store.folder(cell) == store.root / "tiny" / "glyphs" / "ms+psd" / f"seed3-{cell.hash[:8]}"
    assert store.folder(make_cell("ms+psd", seed=3, epochs=3)) != store.folder(cell)
    assert store.folder(make_cell("ms+psd", seed=3, version="2")) != store.folder(cell)


def test_states_from_missing_to_done(store, make_cell, hold):
    cell = make_cell()
    folder = store.folder(cell)
    assert store.state(cell) == "missing"
    writer = begin(store, cell)
    assert store.state(cell) == "missing"  # a spec alone is a plan
    writer.append({"epoch": 0})
    assert store.state(cell) == "interrupted"
    process, claimed = hold(folder)
    assert claimed
    assert store.state(cell) == "running"
    process.kill()
    process.wait()
    assert store.state(cell) == "interrupted"
    writer.finish(ended(cell, "failed"))
    assert store.state(cell) == "failed"
    writer.finish(ended(cell))
    assert store.state(cell) == folder_state(folder) == "done"


def test_looking_at_a_state_takes_no_lock(store, make_cell, hold):
    cell = make_cell()
    begin(store, cell)
    with claim(store.folder(cell)) as claimed:
        assert claimed
        assert store.state(cell) == "running"
        _, other = hold(store.folder(cell))
        assert not other


def test_plans_are_specs_and_disturb_nothing(store, make_cell):
    cells = [make_cell(seed=seed) for seed in range(3)]
    writer = begin(store, cells[1])
    writer.finish(ended(cells[1]))
    before = (writer.folder / "spec.yaml").stat().st_mtime_ns
    store.plan(cells)
    assert [store.state(cell) for cell in cells] == ["missing", "done", "missing"]
    assert len(store.folders()) == 3
    assert read_spec(store.folder(cells[2])) == cells[2]
    assert (writer.folder / "spec.yaml").stat().st_mtime_ns == before


def test_a_result_of_another_cell_is_none(store, make_cell):
    cell, other = make_cell(), make_cell(seed=1)
    begin(store, cell).finish(ended(other))
    assert store.state(cell) == "damaged"
    assert f"is the result of cell {other.hash}, not of {cell.hash}; it was edited" in store.record(cell).reason


def test_what_the_disk_refuses_names_the_folder(store, make_cell, monkeypatch):
    cell = make_cell()
    writer = begin(store, cell)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for write in (lambda: writer.append({"epoch": 0}), lambda: writer.finish({}), lambda: writer.begin(cell)):
        with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)") as caught:
            write()
        assert str(writer.folder) in str(caught.value)
    with pytest.raises(StorageError):
        store.plan([make_cell(seed=5)])
    monkeypatch.undo()
    assert sorted(path.name for path in writer.folder.iterdir()) == ["spec.yaml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 99, "status": "done"}', "results version 99 is not known here (known: 1)"),
        ('{"status": "done"}', "results version None is not known here"),
        ('{"version": 1}', "not a summary (cell: is missing)"),
        ('{"version": 1, "status": "done", "cell": 3}', "not a summary (cell: "),
        ("[]", "results version None is not known here"),
        ('{"version": 1, "stat', "damaged JSON"),
        ("", "damaged JSON"),
        (b"\xff\xfe", "damaged JSON"),
    ],
)
def test_a_summary_that_is_none_names_its_file(store, make_cell, content, message):
    cell = make_cell()
    folder = begin(store, cell).folder
    (folder / "summary.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    sound = make_cell(seed=1)
    begin(store, sound).finish(ended(sound))
    assert store.state(cell) == folder_state(folder) == "damaged"
    found = []
    assert [record.folder for record in store.records(found.append)] == [store.folder(sound)]
    assert found == store.damaged() == [store.record(cell)]
    assert found[0].path == folder
    assert found[0].reason.startswith(f"{folder / 'summary.json'}: ")
    assert message in found[0].reason
    with pytest.warns(UserWarning, match=r"left out: .*summary\.json: "):
        assert len(list(store.records())) == 1
    with pytest.raises(UserError) as caught:
        read_summary(folder)
    assert str(caught.value) == found[0].reason


def test_a_summary_that_cannot_be_read(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(UserError, match=r"summary\.json: cannot be read"):
        read_summary(tmp_path)


@pytest.mark.parametrize("damage", ["", "- a", "a: [", "seed: 0", "seed: x\nmethod: {}\ndataset: {}\nprotocol: {}"])
def test_a_damaged_spec_names_its_file(store, make_cell, damage):
    folder = begin(store, make_cell()).folder
    (folder / "spec.yaml").write_text(damage)
    with pytest.raises(UserError, match="not a readable spec") as caught:
        read_spec(folder)
    assert str(caught.value).startswith(f"{folder / 'spec.yaml'}: ")
    assert "\n" not in str(caught.value)


def test_records_are_the_finished_cells_in_path_order(store, make_cell):
    for method, seed, status in (("ms", 1, "done"), ("ms", 0, "failed"), ("margin", 0, "done"), ("ms", 2, None)):
        cell = make_cell(method, seed=seed)
        writer = begin(store, cell)
        if status:
            writer.finish(ended(cell, status))
    assert len(store.folders()) == 4
    assert [record.folder.parent.name + record.folder.name[:5] for record in store.records()] == [
        "marginseed0",
        "msseed0",
        "msseed1",
    ]
    assert [record.done for record in store.records()] == [True, False, True]
    assert store.record(make_cell("ms", seed=2)) is None
    assert store.record(make_cell("ms", seed=1)).summary.status == "done"
    assert Store(store.root / "nowhere").folders() == []


def test_a_results_folder_that_is_none(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such results folder; run `dmlbench run` first"):
        Store(tmp_path / "nowhere").check_readable()
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="file: not a folder"):
        Store(file).check_readable()
    for root in (file, file / "below"):
        with pytest.raises(UserError, match=r"cannot write results here .*--results"):
            Store(root).check_writable()

    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); mend its permissions"):
        Store(tmp_path).check_readable()


@pytest.mark.parametrize("closed", ["tiny", "ms", "seed", "spec"])
def test_a_folder_that_cannot_be_read_is_never_left_out(store, make_cell, monkeypatch, closed):
    begin(store, make_cell("ms")).finish({"status": "done"})
    begin(store, make_cell("margin")).finish({"status": "done"})

    def refusing(call):
        def look(path, *args, **options):
            if path.name.startswith(closed):
                raise PermissionError(13, "Permission denied")
            return call(path, *args, **options)

        return look

    for name in ("iterdir", "stat"):
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); mend its permissions"):
        store.folders()


def test_a_results_folder_is_made_and_tried(tmp_path, monkeypatch):
    store = Store(tmp_path / "a" / "b")
    store.check_writable()
    store.check_readable()
    assert list(store.root.iterdir()) == []

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match=r"cannot write results here \(Permission denied\)"):
        store.check_writable()


@pytest.mark.parametrize(("name", "mode"), [("ms+psd", "eval"), ("ms+psd", "train"), ("ms", "eval")])
def test_a_summary_of_an_earlier_release_is_filled_in(name, mode, store, make_cell):
    """It says nothing of a teacher's mode, which the spec tells."""
    cell = make_cell(name)
    if distillation := cell.method.distillation:
        update = {"distillation": distillation.model_copy(update={"teacher_mode": mode})}
        cell = replace(cell, method=cell.method.model_copy(update=update))
    old = {key: value for key, value in cell.index().items() if key != "teacher_mode"}
    old |= {"variant": ""}
    if mode == "train":
        old["teacher_mode"] = "train"  # of this release: taken as it is
    writer = begin(store, cell)
    writer.finish(ended(cell) | {"cell": old})
    taught = name == "ms+psd" and mode == "eval"
    found = read_summary(writer.folder).cell
    assert found.variant == ("distillation.teacher_mode=eval" if taught else "")
    assert (EVAL_TEACHER in found.marks) is taught
    assert summary_as_written(writer.folder).cell.as_json() == old


def old_summary(store, cell):
    """A result of an earlier release: nothing in it tells a teacher's mode."""
    writer = begin(store, cell)
    writer.finish(ended(cell) | {"cell": {k: v for k, v in cell.index().items() if k != "teacher_mode"}})
    return writer.folder


def test_an_earlier_result_of_another_cell_stays_one(store, make_cell):
    one, other = (old_summary(store, make_cell("ms+psd", seed=seed)) for seed in range(2))
    (one / "summary.json").write_bytes((other / "summary.json").read_bytes())
    with pytest.raises(UserError, match="is of cell"):
        read_summary(one)
    assert isinstance(store.record(make_cell("ms+psd", seed=0)), Damaged)


def test_an_earlier_result_whose_spec_is_lost_is_damaged(store, make_cell):
    """It may be of a teacher in eval mode, and would stand among those in training mode."""
    folder = old_summary(store, make_cell("ms+psd"))
    (folder / "spec.yaml").write_text("nothing")
    with pytest.raises(UserError, match=r"spec\.yaml"):
        read_summary(folder)
    base = old_summary(store, make_cell("ms"))
    (base / "spec.yaml").write_text("nothing")
    assert read_summary(base).cell.variant == ""
