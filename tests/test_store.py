import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.store import (
    VERSION,
    CellWriter,
    Store,
    claim,
    folder_state,
    history_text,
    read_spec,
    read_summary,
    write_atomically,
)

HOLDER = """
import sys
from pathlib import Path
from dmlbench.store import claim
with claim(Path(sys.argv[1])) as claimed:
    print(claimed, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def hold():
    """Claims a folder in another process; gives the process and whether it got the lock."""
    processes = []

    def start(folder: Path) -> tuple[subprocess.Popen[str], bool]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process, process.stdout.readline().strip() == "True"

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def begin(store: Store, cell) -> CellWriter:
    folder = store.folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    writer = CellWriter(folder)
    writer.begin(cell)
    return writer


def test_a_cells_folder_is_named_by_what_it_is(store, make_cell):
    cell = make_cell("ms+psd", seed=3)
    assert store.folder(cell) == store.root / "tiny" / "glyphs" / "ms+psd" / f"seed3-{cell.hash[:8]}"
    assert store.folder(make_cell("ms+psd", seed=3, epochs=3)) != store.folder(cell)
    assert store.folder(make_cell("ms+psd", seed=3, version="2")) != store.folder(cell)


def test_a_reader_sees_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    write_atomically(path, b"new \xff")
    assert path.read_bytes() == b"new \xff"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_midway_leaves_the_old_content(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def fail(*_args):
        assert path.read_text() == "old"
        raise error

    monkeypatch.setattr(failing, fail)
    with pytest.raises(type(error)):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_states_from_missing_to_done(store, make_cell, hold):
    cell = make_cell()
    folder = store.folder(cell)
    assert store.state(cell) == "missing"
    writer = begin(store, cell)
    assert store.state(cell) == "interrupted"
    process, claimed = hold(folder)
    assert claimed
    assert store.state(cell) == "running"
    process.kill()
    process.wait()
    assert store.state(cell) == "interrupted"
    writer.finish({"status": "failed"})
    assert store.state(cell) == "failed"
    writer.finish({"status": "done"})
    assert store.state(cell) == folder_state(folder) == "done"


def test_a_claim_is_exclusive_across_processes_and_dies_with_its_holder(tmp_path, hold):
    folder = tmp_path / "cell"
    first, claimed = hold(folder)
    assert claimed
    _, second_claimed = hold(folder)
    assert not second_claimed
    with claim(folder) as ours:
        assert not ours
    first.kill()
    first.wait()
    with claim(folder) as ours:
        assert ours
        _, third_claimed = hold(folder)
        assert not third_claimed
    with claim(folder) as ours:
        assert ours


def test_a_claim_ends_with_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), claim(tmp_path):
        raise RuntimeError("boom")
    with claim(tmp_path) as claimed:
        assert claimed


def test_looking_at_a_state_takes_no_lock(store, make_cell, hold):
    cell = make_cell()
    begin(store, cell)
    with claim(store.folder(cell)) as claimed:
        assert claimed
        assert store.state(cell) == "running"
        _, other = hold(store.folder(cell))
        assert not other


def test_begin_clears_what_another_run_left(store, make_cell):
    cell = make_cell()
    writer = begin(store, cell)
    writer.append({"epoch": 0})
    writer.log("an old line")
    writer.finish({"status": "failed"})
    again = begin(store, cell)
    assert sorted(path.name for path in writer.folder.iterdir()) == ["log.txt", "spec.yaml"]
    assert (writer.folder / "log.txt").read_text() == ""
    assert read_spec(writer.folder) == cell
    again.log("one\n")
    again.log("two")
    assert (writer.folder / "log.txt").read_text() == "one\ntwo\n"


def test_rows_are_on_disk_as_soon_as_they_are_known(store, make_cell):
    writer = begin(store, make_cell())
    for epoch in range(3):
        writer.append({"epoch": epoch, "train/loss": 1 / (epoch + 1)})
        with (writer.folder / "history.csv").open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == [str(past) for past in range(epoch + 1)]


def test_history_in_full_precision_with_timings_last():
    rows = [
        {"epoch": 0, "time/evaluation_s": 0.1, "test/recall_at_1": 1 / 3},
        {"epoch": 1, "train/loss": 1e-17, "time/train_s": 2.0, "time/evaluation_s": 0.0},
        {"epoch": 2, "train/loss": None, "test/recall_at_1": 0.1 + 0.2, "test/nmi": 1.0},
    ]
    text = history_text(rows)
    header, *lines = text.splitlines()
    assert header == "epoch,test/recall_at_1,train/loss,test/nmi,time/evaluation_s,time/train_s"
    assert lines[1] == "1,,1e-17,,0.0,2.0"
    read = list(csv.DictReader(io.StringIO(text)))
    assert float(read[0]["test/recall_at_1"]) == 1 / 3
    assert float(read[2]["test/recall_at_1"]) == 0.1 + 0.2
    assert read[2]["train/loss"] == read[2]["time/train_s"] == ""
    assert "\r" not in text


def test_a_summary_carries_its_version_and_no_nan(store, make_cell):
    writer = begin(store, make_cell())
    with pytest.raises(ValueError, match="Out of range float"):
        writer.finish({"status": "done", "x": float("nan")})
    assert read_summary(writer.folder) is None
    writer.finish({"status": "done", "x": 0.1})
    assert read_summary(writer.folder) == {"version": VERSION, "status": "done", "x": 0.1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 99, "status": "done"}', "results version 99 is not known here (known: 1)"),
        ('{"status": "done"}', "results version None is not known here"),
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
    for look in (store.state, store.record, lambda _: list(store.records())):
        with pytest.raises(UserError) as caught:
            look(cell)
        assert str(caught.value).startswith(f"{folder / 'summary.json'}: ")
        assert message in str(caught.value)


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
        writer = begin(store, make_cell(method, seed=seed))
        if status:
            writer.finish({"status": status})
    assert len(store.folders()) == 4
    assert [record.folder.parent.name + record.folder.name[:5] for record in store.records()] == [
        "marginseed0",
        "msseed0",
        "msseed1",
    ]
    assert [record.done for record in store.records()] == [True, False, True]
    assert store.record(make_cell("ms", seed=2)) is None
    assert store.record(make_cell("ms", seed=1)).summary["status"] == "done"
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


def test_summaries_are_text_for_people_and_git(store, make_cell):
    writer = begin(store, make_cell())
    writer.finish({"status": "done", "selections": {}})
    text = (writer.folder / "summary.json").read_text()
    assert text.endswith("}\n")
    assert len(text.splitlines()) == 5
    assert json.loads(text)["version"] == 1
