"""Runs the checks of a self-test in a process of their own, which a crash or a hang of one ends and the next renews.

This process imports no torch: a device that is broken cannot break the report.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from dmlbench.errors import UserError, one_line
from dmlbench.runner.signals import starting
from dmlbench.runner.tasks import cause_of
from dmlbench.selftest.records import LOG, CheckRecord, Ready, Report
from dmlbench.selftest.table import CHECKS, Check

# After how many seconds a process hangs: one that starts, and loads torch from what may be a slow disk; and one with a
# check, which may take several times its share, and some seconds more for a first kernel.
START, TIMES, GRACE = 180.0, 4, 30.0
Tell = Callable[[Check, CheckRecord | None], None]


def run_checks(device: str, minutes: int, tell: Tell, checks: Sequence[Check] = CHECKS) -> Report:
    """Run the checks in their order, each where it still fits into the time.

    Args:
        device: `auto`, `cpu` or `cuda`.
        minutes: The time for all of them.
        tell: Is called with each check before it runs, and with its record afterwards.
        checks: Which; all by default.

    Raises:
        UserError: where the device is not there, or the environment overrides its precision.
    """
    begun, started = time.monotonic(), datetime.now(UTC)
    records: list[CheckRecord] = []
    with tempfile.TemporaryDirectory(prefix="dmlbench-selftest-", ignore_cleanup_errors=True) as scratch:
        worker = _Worker(device, Path(scratch))
        try:
            ready = worker.start()
            for number, check in enumerate(checks):
                tell(check, None)
                left = 60 * minutes - (time.monotonic() - begun)
                later = sum(other.seconds for other in checks[number + 1 :])
                records.append(_record(worker, check, left, later, minutes))
                tell(check, records[-1])
        finally:
            worker.end()
    return Report(
        started=started.isoformat(timespec="seconds"),
        device=ready.device,
        minutes=minutes,
        seconds=time.monotonic() - begun,
        environment=ready.environment,
        code=ready.code,
        checks=tuple(records),
    )


def _record(worker: "_Worker", check: Check, left: float, later: float, minutes: int) -> CheckRecord:
    """The record of a check, with `left` seconds for it and `later` of these for those after it."""
    if left < check.seconds:
        reason = f"no time left (--minutes {minutes})"
        return CheckRecord(name=check.name, title=check.title, status="skipped", reason=reason)
    return worker.take(check, max(check.seconds, min(check.most, left - later)))


class _Worker:
    """The process that runs checks; after a failure the next check gets a fresh one."""

    def __init__(self, device: str, scratch: Path) -> None:
        self._arguments = device, scratch
        self._running: tuple[SpawnProcess, Connection] | None = None

    def start(self) -> Ready:
        """Start the process; raises UserError where the device is not there, or the process ends at once."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._arguments), name="dmlbench selftest")
        with starting():
            process.start()
        theirs.close()
        self._running = process, ours
        answer = self._received(process, ours, START, "the worker process did not start")
        if not isinstance(answer, Ready):
            raise answer if isinstance(answer, UserError) else UserError(str(answer), hint="see `dmlbench doctor`")
        return answer

    def take(self, check: Check, seconds: float) -> CheckRecord:
        """Run a check; where its process ends or does not answer, that is a failure of the check."""
        begun = time.monotonic()
        try:
            if self._running is None:
                self.start()
            record = self._asked(check, seconds)
        except UserError as error:
            record = str(error)
        if isinstance(record, str):
            took = time.monotonic() - begun
            record = CheckRecord(name=check.name, title=check.title, status="fail", reason=record, seconds=took)
        if record.status == "fail":
            self.end()  # an error can leave a CUDA context beyond use
        return record

    def end(self) -> None:
        """End the process and those that its check started, whatever they are at."""
        if self._running is not None:
            process, connection = self._running
            assert process.pid is not None  # noqa: S101 - it has been started
            with suppress(ProcessLookupError):  # it has no group yet, or nothing of its group is left
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
            connection.close()
            self._running = None

    def _asked(self, check: Check, seconds: float) -> CheckRecord | str:
        assert self._running is not None  # noqa: S101 - `start` either sets it or raises
        process, connection = self._running
        with suppress(BrokenPipeError):  # it has died: what is received says how
            connection.send((check, seconds))
        answer = self._received(process, connection, TIMES * seconds + GRACE, "did not end")
        return answer if isinstance(answer, CheckRecord) else str(answer)

    def _received(self, process: SpawnProcess, connection: Connection, limit: float, late: str) -> Any:  # noqa: ANN401
        """What the process says within `limit` seconds; else a line that says how it ended, or that it is late."""
        try:
            if not connection.poll(limit):
                return f"{late} within {limit:.0f} s"
            return connection.recv()
        except (EOFError, OSError):
            process.join()
        log = self._arguments[1] / LOG
        said = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
        words = f"; it last said: {said.splitlines()[-1]}" if said else ""
        return one_line(f"{cause_of(process.exitcode)}{words}")


def _work(connection: Connection, device: str, scratch: Path) -> None:
    os.setpgrp()  # what a check starts ends with this process
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    from dmlbench.selftest.worker import work  # torch loads there alone

    work(connection, device, scratch)


def _end_with_the_parent() -> None:
    """End at once, with what the check has started, when the self-test has been killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.killpg(os.getpid(), signal.SIGKILL)
