import pytest

from dmlbench.results.store import Store
from dmlbench.results.writer import CellWriter
from dmlbench.runner.tasks import Task, cause_of, record_death


def test_a_worker_that_dies_before_it_begins_fails_its_cell(tmp_path, make_cell):
    store, cell = Store(tmp_path), make_cell()
    event = record_death(Task(cell, store.folder(cell)), "it died")
    assert event.error.message == "it died"
    assert store.state(cell) == "failed"
    assert [record.folder for record in store.records()] == [store.folder(cell)]


def test_what_a_worker_had_written_stays(tmp_path, make_cell):
    store, cell = Store(tmp_path), make_cell()
    store.folder(cell).mkdir(parents=True)
    writer = CellWriter(store.folder(cell))
    writer.begin(cell)
    writer.append({"epoch": 0, "test/recall_at_1": 0.5})
    (writer.folder / "log.txt").write_text("\n".join(f"line {number}" for number in range(9)))
    event = record_death(Task(cell, store.folder(cell)), "it died")
    assert event.error.log == ["line 4", "line 5", "line 6", "line 7", "line 8"]
    assert "0.5" in (store.folder(cell) / "history.csv").read_text()


def test_a_death_that_cannot_be_written_is_told_all_the_same(tmp_path, make_cell, monkeypatch):
    store, cell = Store(tmp_path), make_cell()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert record_death(Task(cell, store.folder(cell)), "it died").error.message == "it died"
    assert store.state(cell) == "missing"


@pytest.mark.parametrize(
    ("exit_code", "cause"),
    [
        (3, "the worker process ended with exit code 3"),
        (-9, "the worker process ended with signal SIGKILL (out of memory? fewer --workers or"),
        (-11, "the worker process ended with signal SIGSEGV (a crash in a library"),
        (-15, "the worker process ended with signal SIGTERM"),
    ],
)
def test_causes_in_words(exit_code, cause):
    assert cause_of(exit_code).startswith(cause)
