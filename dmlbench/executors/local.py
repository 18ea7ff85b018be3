"""Runs cells in processes of this machine. A worker that dies takes its own cell with it and nothing else."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dmlbench.run_options import RunOptions
from dmlbench.spec import Cell
from dmlbench.store import CellWriter, read_summary

Event = dict[str, Any]
OnEvent = Callable[["Task", Event], None]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A cell and the folder it writes."""

    cell: Cell
    folder: Path


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    device: str
    task: Task | None = None
    finished: bool = False  # the task's end was told, or another process has it


def run_local(
    tasks: Sequence[Task], options: RunOptions, devices: Sequence[str], threads: int, on_event: OnEvent
) -> None:
    """Run every task, one worker process per entry of `devices`, and report their events as they come.

    Workers start as fresh interpreters, so that thread settings and CUDA start clean, and live on from cell to
    cell, so that torch is imported once each.
    """
    queue = deque(tasks)
    workers: list[_Worker] = []
    try:
        workers = [_start(options, device, threads) for device in devices[: len(queue)]]
        for worker in workers:
            _assign(worker, queue)
        while any(worker.task for worker in workers):
            ready = wait([worker.connection for worker in workers if worker.task])
            for worker in [worker for worker in workers if worker.connection in ready]:
                if not _receive(worker, queue, on_event):
                    workers.remove(worker)
                    if queue:
                        workers.append(_start(options, worker.device, threads))
                        _assign(workers[-1], queue)
    finally:
        _stop(workers)


def _start(options: RunOptions, device: str, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, replace(options, device=device), threads)
    process = context.Process(target=_work, args=arguments, name=f"dmlbench {device}")
    process.start()
    theirs.close()
    return _Worker(process, ours, device)


def _assign(worker: _Worker, queue: deque[Task]) -> None:
    worker.task, worker.finished = queue.popleft() if queue else None, False
    with suppress(BrokenPipeError, ConnectionResetError):  # it has died: the next receive says so
        worker.connection.send(worker.task)


def _receive(worker: _Worker, queue: deque[Task], on_event: OnEvent) -> bool:
    """Handle one message; False where the worker has died."""
    assert worker.task is not None  # noqa: S101 - only workers with a task are waited for
    try:
        event = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        if not worker.finished:
            on_event(worker.task, _record_death(worker.task, worker.process.exitcode))
        return False
    if event["event"] == "idle":
        _assign(worker, queue)
    else:
        worker.finished = event["event"] in ("finished", "claimed")
        on_event(worker.task, event)
    return True


def _record_death(task: Task, exit_code: int | None) -> Event:
    """Write the failure of a cell whose worker was killed, with what its log last said; a result stays one."""
    if (summary := read_summary(task.folder)) and summary["status"] == "done":
        return {"event": "finished", "status": "done", "error": None}
    cause = f"signal {signal.Signals(-exit_code).name}" if exit_code and exit_code < 0 else f"exit code {exit_code}"
    log = task.folder / "log.txt"
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:] if log.is_file() else []
    message = f"the worker process ended with {cause}"
    error = {"kind": "died", "class": "WorkerDied", "message": message, "log": tail}
    task.folder.mkdir(parents=True, exist_ok=True)
    writer = CellWriter(task.folder)
    if not (task.folder / "spec.yaml").is_file():  # it died before it began
        writer.begin(task.cell)
    writer.finish({"status": "failed", "error": error, "cell": task.cell.index(), "environment": {}})
    return {"event": "finished", "status": "failed", "error": error}


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        if worker.task is not None:
            worker.process.terminate()
        worker.connection.close()
    for worker in workers:
        worker.process.join(timeout=10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(connection: Connection, options: RunOptions, threads: int) -> None:
    """A worker's life: receive a task, run it, say so; None ends it, and so does the runner's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the runner decides what stops
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    from dmlbench.cell import run_cell  # after the thread settings, which libraries read when they load

    try:
        while (task := connection.recv()) is not None:
            _redirect_output(task.folder)
            if not run_cell(task.cell, task.folder, options, partial(_tell, connection)):
                return  # the runner starts a fresh process for the next cell
            _tell(connection, {"event": "idle"})
    except (EOFError, ConnectionResetError):
        return


def _tell(connection: Connection, event: Event) -> None:
    """Send an event. Where the runner has gone the worker ends: its cell was interrupted and has not failed."""
    try:
        connection.send(event)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise SystemExit(1) from error


def _redirect_output(folder: Path) -> None:
    """Send what libraries print to the cell's log, down to messages of the C runtime before a crash."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
