"""Runs cells in processes of this machine. A worker that dies takes its own cell with it and nothing else."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, Literal

from dmlbench.errors import StorageError, UserError
from dmlbench.results.events import Claimed, Event, Halted, Stopped, ending, halted, may_stop
from dmlbench.results.locks import claim
from dmlbench.results.writer import storing
from dmlbench.runner.signals import SIGNALS, Stop, starting
from dmlbench.runner.tasks import THREAD_VARIABLES, OnEvent, RunOptions, Task, cause_of, end_with_parent, record_death

GLANCE = 0.2  # seconds between looks at whether to stop
STOP: Final = "stop"
IDLE: Final = "idle"


@dataclass
class Worker:
    """A process that runs cells, and the task it has."""

    process: BaseProcess
    connection: Connection
    device: str
    task: Task | None = None
    ended: bool = False  # the task's end was reported, or another process runs it


@dataclass
class Pool:
    """The workers of one run and the tasks they have not been given yet."""

    options: RunOptions
    threads: int
    queue: deque[Task]
    on_event: OnEvent
    later: deque[Task] = field(default_factory=deque)  # another process had them: one more look, at the end
    claimed: set[Path] = field(default_factory=set)
    workers: list[Worker] = field(default_factory=list)
    stopping: bool = False


def run_local(
    tasks: Sequence[Task],
    options: RunOptions,
    devices: Sequence[str],
    *,
    threads: int,
    on_event: OnEvent,
    interrupts: Stop,
) -> None:
    """Run every task, one worker process per entry of `devices`, and report their events as they come.

    Workers start as fresh interpreters, so that thread settings and CUDA start clean, and live on from cell to
    cell, so that torch is imported once each. When a stop is asked for, workers end after their epoch; when the
    results folder cannot be written, no further task is begun.
    """
    pool = Pool(options, threads, deque(tasks), on_event)
    try:
        for device in devices[: len(pool.queue)]:
            pool.workers.append(_start(pool, device))
        for worker in pool.workers:
            assign(pool, worker)
        while busy := [worker for worker in pool.workers if worker.task]:
            if interrupts.notice():
                ask_to_stop(pool, busy)
            ready = wait([worker.connection for worker in busy], timeout=GLANCE)
            for worker in [worker for worker in busy if worker.connection in ready]:
                if not receive(pool, worker):
                    pool.workers.remove(worker)
                    if pool.queue or pool.later:
                        pool.workers.append(_start(pool, worker.device))
                        assign(pool, pool.workers[-1])
    finally:
        _end(pool.workers)


def _start(pool: Pool, device: str) -> Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, replace(pool.options, device=device), pool.threads)
    process = context.Process(target=_work, args=arguments, name=f"dmlbench {device}")
    with starting():
        process.start()
    theirs.close()
    return Worker(process, ours, device)


def assign(pool: Pool, worker: Worker) -> None:
    """Send a worker the next task; None, which ends it, where there is none."""
    source = pool.queue or pool.later
    worker.task, worker.ended = source.popleft() if source else None, False
    with suppress(BrokenPipeError, ConnectionResetError):  # it has died: the next receive says so
        worker.connection.send(worker.task)


def ask_to_stop(pool: Pool, busy: Sequence[Worker]) -> None:
    """Have workers end after their epoch, and begin no further task."""
    pool.stopping = True
    pool.queue.clear()
    pool.later.clear()
    for worker in busy:
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(STOP)


def receive(pool: Pool, worker: Worker) -> bool:
    """Handle one message; False where the worker has ended."""
    task = worker.task
    assert task is not None  # noqa: S101 - only workers with a task are waited for
    try:
        event: Event | Literal["idle"] = worker.connection.recv()
    except (EOFError, OSError):  # a message that was cut off is an OSError
        worker.process.join()
        if not worker.ended:
            stopped = pool.stopping and worker.process.exitcode == 0
            pool.on_event(task, Stopped() if stopped else _bury(task, worker.process.exitcode))
        return False
    if event == IDLE:
        assign(pool, worker)
        return True
    worker.ended = ending(event)
    again = isinstance(event, Claimed) and not event.done and task.folder not in pool.claimed
    if again and not pool.stopping:
        pool.claimed.add(task.folder)
        pool.later.append(task)
        return True
    if isinstance(event, Halted) and event.error.kind == "storage":
        pool.queue.clear()  # the next cell could not be written either
        pool.later.clear()
    pool.on_event(task, event)
    return True


def _bury(task: Task, exit_code: int | None) -> Event:
    """Record the death of a worker, unless another runner has taken its cell up already."""
    try:
        with claim(task.folder) as mine:
            return record_death(task, cause_of(exit_code)) if mine else Claimed(done=False)
    except (OSError, UserError) as error:
        return halted("storage", error)


def _end(workers: list[Worker]) -> None:
    for worker in workers:
        if worker.task is not None:
            worker.process.kill()  # whatever it is writing takes its place whole or not at all
        worker.connection.close()
    for worker in workers:
        worker.process.join(timeout=10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(connection: Connection, options: RunOptions, threads: int) -> None:
    """A worker's life: receive a task, run it, say so; None ends it, and so does the runner's end."""
    for number in SIGNALS:  # they reach the whole group, and the runner decides what stops
        signal.signal(number, signal.SIG_IGN)
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    threading.Thread(target=end_with_parent, daemon=True).start()
    from dmlbench.runner.cell import run_cell  # after the thread settings, which libraries read when they load

    try:
        while isinstance(task := connection.recv(), Task):
            try:
                _redirect_output(task.folder)
            except StorageError as error:
                send_event(connection, halted("storage", error))
            else:
                if not run_cell(task.cell, task.folder, options, partial(send_event, connection), task.failure):
                    if options.gpus_per_cell > 1:
                        os._exit(0)  # NCCL may wait for ranks that have gone, also where Python ends
                    return  # the runner starts a fresh process for the next cell
            send_event(connection, IDLE)
    except (EOFError, ConnectionResetError):
        return


def send_event(connection: Connection, event: Event | Literal["idle"]) -> None:
    """Send an event. Where the runner has gone or asks to stop, the worker ends: its cell has not failed."""
    try:
        connection.send(event)
        if event != IDLE and may_stop(event) and connection.poll() and connection.recv() == STOP:
            raise SystemExit(0)
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise SystemExit(1) from error


def _redirect_output(folder: Path) -> None:
    """Send what libraries print to the cell's log, down to messages of the C runtime before a crash."""
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
