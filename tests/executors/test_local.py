import multiprocessing
from collections import deque

from dmlbench.executors.local import Task, _assign, _receive, _record_death, _Worker
from dmlbench.store import CellWriter, Store


class Dead:
    """A process that was killed."""

    exitcode = -9

    def join(self) -> None:
        """It has ended."""


def test_a_worker_that_dies_before_it_begins_fails_its_cell(tmp_path, make_cell):
    store, cell = Store(tmp_path), make_cell()
    event = _record_death(Task(cell, store.folder(cell)), -9)
    assert event["error"]["message"] == "the worker process ended with signal SIGKILL"
    assert store.state(cell) == "failed"
    assert [record.folder for record in store.records()] == [store.folder(cell)]


def test_what_a_worker_had_written_stays(tmp_path, make_cell):
    store, cell = Store(tmp_path), make_cell()
    store.folder(cell).mkdir(parents=True)
    writer = CellWriter(store.folder(cell))
    writer.begin(cell)
    writer.append({"epoch": 0, "test/recall_at_1": 0.5})
    writer.log("half way")
    event = _record_death(Task(cell, store.folder(cell)), 3)
    assert event["error"]["message"] == "the worker process ended with exit code 3"
    assert event["error"]["log"] == ["half way"]
    assert "0.5" in (store.folder(cell) / "history.csv").read_text()


def test_a_worker_that_dies_after_its_result_was_written_changes_nothing(tmp_path, make_cell):
    store, cell = Store(tmp_path), make_cell()
    task = Task(cell, store.folder(cell))
    task.folder.mkdir(parents=True)
    writer = CellWriter(task.folder)
    writer.begin(cell)
    writer.finish({"status": "done", "cell": cell.index()})
    assert _record_death(task, -9) == {"event": "finished", "status": "done", "error": None}
    assert store.state(cell) == "done"
    for told, expected in ((False, ["finished"]), (True, [])):
        ours, theirs = multiprocessing.Pipe()
        theirs.close()
        events = []
        worker = _Worker(Dead(), ours, "cpu", task, finished=told)
        assert not _receive(worker, deque(), lambda _task, event, events=events: events.append(event["event"]))
        assert events == expected


def test_a_worker_killed_between_two_cells_fails_the_one_it_was_given(tmp_path, make_cell):
    store = Store(tmp_path)
    tasks = [Task(cell, store.folder(cell)) for cell in (make_cell(seed=0), make_cell(seed=1))]
    ours, theirs = multiprocessing.Pipe()
    worker = _Worker(Dead(), ours, "cpu")
    theirs.close()
    queue, events = deque(tasks), []
    _assign(worker, queue)
    assert not _receive(worker, queue, lambda task, event: events.append((task, event["status"])))
    assert events == [(tasks[0], "failed")]
    assert list(queue) == tasks[1:]
