import multiprocessing
from collections import deque

import pytest

from dmlbench.errors import StorageError
from dmlbench.results.events import Claimed, Epoch, Finished, Halted, Started, Stopped, halted
from dmlbench.results.locks import LostClaimError
from dmlbench.results.store import Store
from dmlbench.results.writer import CellWriter
from dmlbench.runner.local import IDLE, STOP, Pool, Worker, ask_to_stop, assign, receive, send_event
from dmlbench.runner.tasks import RunOptions, Task
from tests.begun import ended

STORAGE = halted("storage", StorageError("full"))
LOST = halted("claim", LostClaimError("lost"))


class Process:
    """One that has ended."""

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode

    def join(self) -> None:
        """It has ended."""


@pytest.fixture
def tasks(tmp_path, make_cell):
    cells = [make_cell(seed=seed) for seed in range(4)]
    return [Task(cell, Store(tmp_path).folder(cell)) for cell in cells]


@pytest.fixture
def told():
    return []


@pytest.fixture
def pool(tasks, told):
    return Pool(RunOptions(), 1, deque(tasks), lambda task, event: told.append((task.cell.seed, type(event))))


@pytest.fixture
def begun(pool):
    """A worker with its first task, and the connection it speaks through."""
    ours, theirs = multiprocessing.Pipe()
    worker = Worker(Process(-9), ours, "cpu")
    pool.workers.append(worker)
    assign(pool, worker)
    assert theirs.recv() == worker.task
    return worker, theirs


def test_a_worker_that_dies_fails_its_cell_alone(pool, begun, told, tasks):
    worker, theirs = begun
    theirs.close()
    assert not receive(pool, worker)
    assert told == [(0, Finished)]
    assert Store(tasks[0].folder.parents[3]).state(tasks[0].cell) == "failed"
    assert list(pool.queue) == tasks[1:]


def test_a_worker_that_dies_after_its_result_was_written_changes_nothing(pool, begun, told, tasks):
    worker, theirs = begun
    tasks[0].folder.mkdir(parents=True)
    writer = CellWriter(tasks[0].folder)
    writer.begin(tasks[0].cell)
    writer.finish(ended(tasks[0].cell))
    theirs.send(Finished())
    theirs.close()
    assert receive(pool, worker)
    assert not receive(pool, worker)
    assert told == [(0, Finished)]
    assert Store(tasks[0].folder.parents[3]).state(tasks[0].cell) == "done"


def test_a_worker_killed_between_two_cells_fails_the_one_it_was_given(pool, begun, told):
    worker, theirs = begun
    theirs.send(Finished())
    theirs.send(IDLE)
    assert receive(pool, worker)
    theirs.close()
    assert not receive(pool, worker) or not receive(pool, worker)
    assert told == [(0, Finished), (1, Finished)]


def test_a_cell_that_another_process_has_is_tried_once_more_at_the_end(pool, begun, told, tasks):
    worker, theirs = begun
    for _ in range(6):
        theirs.send(Claimed(done=worker.task is not tasks[0]))
        theirs.send(IDLE)
        assert receive(pool, worker)
        assert receive(pool, worker)
        if worker.task is None:
            break
    assert told == [(1, Claimed), (2, Claimed), (3, Claimed), (0, Claimed)]


@pytest.mark.parametrize(("event", "left"), [(STORAGE, 0), (LOST, 3)])
def test_a_full_disk_ends_the_run_and_a_lost_claim_does_not(pool, begun, told, event, left):
    worker, theirs = begun
    theirs.send(event)
    assert receive(pool, worker)
    assert told == [(0, Halted)]
    assert len(pool.queue) == left


def test_a_stop_reaches_the_worker_at_its_next_word_and_is_no_failure(pool, begun, told, tasks):
    worker, theirs = begun
    ask_to_stop(pool, [worker])
    assert not pool.queue
    send_event(theirs, Epoch(4, 4, {}))  # the last: what is left is to finish
    with pytest.raises(SystemExit) as ended:
        send_event(theirs, Epoch(3, 4, {}))
    assert ended.value.code == 0
    theirs.close()
    worker.process = Process(0)
    assert receive(pool, worker)
    assert receive(pool, worker)
    assert not receive(pool, worker)
    assert told == [(0, Epoch), (0, Epoch), (0, Stopped)]
    assert not (tasks[0].folder / "summary.json").exists()


def test_a_worker_whose_runner_has_gone_ends():
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    with pytest.raises(SystemExit) as ended:
        send_event(theirs, Started())
    assert ended.value.code == 1


def test_a_stop_is_a_word_and_no_task():
    assert not isinstance(STOP, Task)
