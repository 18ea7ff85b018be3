"""Mirrors a run to MLflow while it trains, in a thread of the runner that training never waits for."""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dmlbench.errors import UserError, one_line
from dmlbench.results.events import Claimed, Event, Finished, ending
from dmlbench.results.store import Record, read_summary
from dmlbench.specs.cell import Cell
from dmlbench.tracking import runs
from dmlbench.tracking.connection import TrackingError, answers, connect, redacted
from dmlbench.tracking.experiments import DeletedExperimentError
from dmlbench.tracking.files import Files

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

LINGER = 2.0  # seconds in which events gather into one batch
# Eight runners that end together on two busy cores wait for each other at one SQLite file for more than ten seconds.
FLUSH = (20.0, 60.0)  # seconds at the end for what is left: a hundredth of the run, within these
AGAIN = (15.0, 600.0)  # seconds until a server that failed is tried again: twice as many each time, within these


class Mirror:
    """Sends cells to MLflow from a thread; use as a context manager and call it as an observer.

    Args:
        warn: Takes a line for the user.
        system_metrics: Whether MLflow samples this machine into every live run: processor, memory, disk, network.
    """

    def __init__(self, warn: Callable[[str], None], *, system_metrics: bool = False) -> None:
        self._warn, self._system_metrics = warn, system_metrics
        self._events: queue.Queue[tuple[Path, Event] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow mirror", daemon=True)
        self._due: dict[Path, Event] = {}  # cells with something to send, and the last thing that happened to each
        self._live: dict[Path, runs.LiveRun] = {}
        self._monitors: dict[Path, SystemMetricsMonitor] = {}
        self._client: MlflowClient | None = None
        self._files = Files(warn)
        self._deleted: set[str] = set()  # what was said of experiments that somebody deleted
        self._failing = self._told = False
        self._begun = time.monotonic()
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._events.put(None)
        least, most = FLUSH
        elapsed = time.monotonic() - self._begun
        at_once = self._failing or kind is not None
        self._thread.join(0.1 if at_once else min(max(elapsed / 100, least), most))
        if self._failing or (self._thread.is_alive() and self._told):
            self._warn("MLflow: some runs are not there yet; `dmlbench sync` sends the rest")

    def __call__(self, cell: Cell, folder: Path, event: Event) -> None:  # noqa: ARG002 - an Observer
        """Queue what has happened to a cell."""
        if not isinstance(event, Claimed):  # another runner's to show
            self._told = True
            self._events.put((folder, event))

    def _work(self) -> None:
        wait, not_before, open_ = AGAIN[0], 0.0, True
        while open_:
            open_ = self._gather(not_before)
            try:
                self._client = self._client or connect(self._warn)
                self._send_due(self._client)
                if self._failing:
                    self._warn("MLflow answers again")
                self._failing, wait = False, AGAIN[0]
            except Exception as error:  # noqa: BLE001 - whatever a server does, results are safe on disk
                if not self._failing:
                    words = error.brief if isinstance(error, TrackingError) else _in_words(error)
                    self._warn(f"MLflow: {words}; results are safe, `dmlbench sync` sends them later")
                self._failing, not_before, wait = True, time.monotonic() + wait, min(2 * wait, AGAIN[1])

        for folder in list(self._monitors):
            self._unwatch(folder)

    def _gather(self, not_before: float) -> bool:
        """Collect events until something is due and may be sent; False where there will be no more of them."""
        deadline = not_before if self._due else None
        while True:
            try:
                event = self._events.get(timeout=deadline and max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                return True
            if event is None:
                return False
            folder, what = event
            self._due[folder] = what
            deadline = deadline or max(not_before, time.monotonic() + LINGER)

    def _send_due(self, client: "MlflowClient") -> None:
        """Send what is due. Where some can be sent and some cannot, those are at fault and not the server."""
        failed: dict[Path, Exception] = {}
        due = list(self._due.items())
        for folder, event in due:
            try:
                self._send(client, folder, event)
                del self._due[folder]
            except Exception as error:
                self._live.pop(folder, None)
                self._unwatch(folder)
                if isinstance(error, TrackingError) and not answers(client):
                    raise  # nor would it answer for the others
                failed[folder] = error
        others = [cause for cause in failed.values() if not isinstance(cause, UserError | DeletedExperimentError)]
        if others and len(failed) == len(due):
            raise others[0]
        for folder, cause in failed.items():
            del self._due[folder]
            self._leave_out(folder, cause)

    def _leave_out(self, folder: Path, cause: Exception) -> None:
        """Say why a cell is not sent; of all cells in a deleted experiment once."""
        if not isinstance(cause, DeletedExperimentError):
            self._warn(f"MLflow: left out {folder}: {_in_words(cause)}")
        elif cause.brief not in self._deleted:
            self._deleted.add(cause.brief)
            self._warn(f"MLflow: {cause.brief}; results are safe, `dmlbench sync` then sends them")

    def _send(self, client: "MlflowClient", folder: Path, event: Event) -> None:
        if ending(event):
            self._unwatch(folder)
        if isinstance(event, Finished):
            summary = read_summary(folder)
            if summary is not None:
                self.sent += runs.send(client, Record(folder, summary), self._live.get(folder), self._files)
            self._live.pop(folder, None)
            return
        if folder not in self._live:
            self._live[folder] = runs.begin(client, folder)
        if ending(event):
            runs.interrupt(client, folder, self._live[folder])
            return
        self._watch(client, folder)
        runs.update(client, folder, self._live[folder])

    def _watch(self, client: "MlflowClient", folder: Path) -> None:
        run_id = self._live[folder].run_id
        if self._system_metrics and run_id and folder not in self._monitors:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitors[folder] = SystemMetricsMonitor(run_id, tracking_uri=client.tracking_uri)
            self._monitors[folder].start()

    def _unwatch(self, folder: Path) -> None:
        monitor = self._monitors.pop(folder, None)
        if monitor is not None:
            monitor.finish()


def _in_words(error: Exception) -> str:
    """An error and its kind in one line, without secrets."""
    return redacted(f"{type(error).__name__}: {one_line(str(error)) or 'no message'}")
