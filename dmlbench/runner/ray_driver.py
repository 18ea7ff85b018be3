"""The driver of a Ray run, and what a node does with a task.

The driver holds each cell's claim while its task runs, so that nobody else takes it, and gives out no more tasks than
the cluster has room for. Where a node sees the driver's results folder, the cell is written there, and an attempt
that was lost with its node is resumed from its last epoch on another. Elsewhere a node works in a folder of its own,
and its files are shipped to the driver at the end.
"""

import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmlbench.atomic import write_atomically
from dmlbench.errors import StorageError, UserError
from dmlbench.results.events import Claimed, Event, Halted, Stopped, ending, halted, may_stop
from dmlbench.results.locks import Claim, LostClaimError, claim
from dmlbench.results.store import has_ended
from dmlbench.results.writer import CellWriter, storing
from dmlbench.runner.signals import Interrupts
from dmlbench.runner.tasks import MOST_DATA_WORKERS, THREAD_VARIABLES, OnEvent, RunOptions, Share, Task, record_death

RETRIES = 3  # attempts that Ray adds where a node or a process is lost
GLANCE = 0.2  # seconds between looks at events and at whether to stop
# Of a node's own folder; the summary last, for it makes the others a result. A checkpoint is there after a stop.
SHIPPED = ("checkpoint.pt", "history.csv", "log.txt", "weights.safetensors", "embeddings.safetensors", "summary.json")


@dataclass(frozen=True)
class Needs:
    """How a cell is run, what it takes of a node, and how many may run."""

    options: RunOptions
    threads: int
    gpus: float
    most: int | None

    @property
    def cpus(self) -> int:
        """Cores: the protocol's threads and the loader's processes."""
        return self.threads + self.options.data_workers

    def room(self, node: Mapping[str, Any]) -> int:
        """How many cells a node holds."""
        resources = node["Resources"] if node["Alive"] else {}
        by_cpus = int(resources.get("CPU", 0) // self.cpus)
        return min(by_cpus, int(resources.get("GPU", 0) / self.gpus)) if self.gpus else by_cpus


def needs(options: RunOptions, share: Share) -> Needs:
    """What a cell needs of the present cluster.

    Raises:
        UserError: where no node has room for one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [node for node in nodes if node.get("GPU", 0)] if options.device in ("auto", "cuda") else []
    if options.device == "cuda" and not gpus:
        raise UserError("--device cuda: no node of the Ray cluster has a GPU", hint="valid here: auto, cpu")
    workers = share.data_workers
    if workers is None:
        free = (int(node.get("CPU", 0) / (node["GPU"] * share.per_gpu)) for node in gpus)
        workers = max(0, min((MOST_DATA_WORKERS, *(count - share.threads for count in free)))) if gpus else 0
    options = replace(options, device="cuda" if gpus else "cpu", data_workers=workers)
    found = Needs(options, share.threads, 1 / share.per_gpu if gpus else 0.0, share.workers)
    processes = max(found.room(node) for node in ray.nodes())
    if processes == 0:
        cores = f"{found.cpus} cores" + (" and a GPU" if gpus else "")
        raise UserError(f"no node of the Ray cluster has {cores} for a cell", hint="fewer --data-workers need less")
    return replace(found, options=replace(options, processes=min(processes, share.workers or processes)))


@dataclass(frozen=True)
class Node:
    """What a node is asked to look for: the driver's working folder, and the marker in its results folder."""

    cwd: Path
    marker: Path


@dataclass
class _Running:
    task: Task
    claim: Claim
    held: ExitStack


class Driver:
    """Gives out tasks, passes on their events and takes in what they return; a context that ends what is left."""

    def __init__(self, tasks: Sequence[Task], wanted: Needs, node: Node, on_event: OnEvent) -> None:
        self._needs, self._node, self._on_event = wanted, node, on_event
        self._queue = deque(tasks)
        self._running: dict[Any, _Running] = {}
        self._tasks = {task.cell.hash: task for task in tasks}
        # On the driver's own node: no other's loss may take it away.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._work: Any = ray.remote(num_cpus=wanted.cpus, num_gpus=wanted.gpus, max_retries=RETRIES)(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reference, running in self._running.items():
            with running.held, suppress(RayError):
                ray.cancel(reference, force=True)

    def run(self, interrupts: Interrupts) -> None:
        """Run until every task has ended, or a stop was asked for and every begun one has.

        Raises:
            UserError: where the cluster is lost.
        """
        try:
            while self._queue or self._running:
                if interrupts.notice():
                    self._queue.clear()
                    self._mailbox.stop.remote()
                self._give_out()
                ended = self._wait()
                for key, event in ray.get(self._mailbox.take.remote()):
                    self._on_event(self._tasks[key], event)
                for reference in ended:
                    self._take_in(reference)
        except RayError as error:
            what = f"the Ray cluster is lost ({_cause(error)})"
            raise UserError(what, hint="rerun the same command to resume") from error

    def _wait(self) -> list[Any]:
        if self._running:
            return list(ray.wait(list(self._running), timeout=GLANCE)[0])
        time.sleep(GLANCE)  # no node has room: another may come
        return []

    def _give_out(self) -> None:
        room = sum(self._needs.room(node) for node in ray.nodes())
        room = min(room, self._needs.most or room)
        while self._queue and len(self._running) < room:
            task, held = self._queue.popleft(), ExitStack()
            mine = held.enter_context(claim(task.folder))
            if mine is None or has_ended(task.folder, task.failure):
                held.close()
                self._on_event(task, Claimed(done=mine is not None))
                continue
            mine = replace(mine, path=mine.path.resolve())
            reference = self._work.remote(task, mine, self._needs, self._node, self._mailbox)
            self._running[reference] = _Running(task, mine, held)

    def _take_in(self, reference: Any) -> None:  # noqa: ANN401 - a Ray reference
        running = self._running.pop(reference)
        task = running.task
        with running.held:
            try:
                event, files = ray.get(reference)
                with storing(task.folder):
                    for name, content in files.items():
                        running.claim.check()
                        write_atomically(task.folder / name, content)
            except RayError as error:
                event = record_death(task, f"the Ray task ended: {_cause(error)}")
            except (StorageError, LostClaimError) as error:
                event = halted("storage" if isinstance(error, StorageError) else "claim", error)
            if isinstance(event, Halted) and event.error.kind == "storage":
                self._queue.clear()  # the next cell could not be written either
        self._on_event(task, event)


def _cause(error: RayError) -> str:
    """What Ray says of an error, without its colours: the last line that is not empty."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)


class Mailbox:
    """An actor that takes events from tasks for the driver, and answers tasks whether to stop."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Event]] = []
        self._stopping = False

    def put(self, key: str, event: Event) -> bool:
        """Leave an event; whether to stop."""
        self._events.append((key, event))
        return self._stopping

    def take(self) -> list[tuple[str, Event]]:
        """Take all events."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Ask every task to stop after its epoch."""
        self._stopping = True


def work(task: Task, held: Claim, wanted: Needs, node: Node, mailbox: Any) -> tuple[Event, dict[str, bytes]]:  # noqa: ANN401
    """Run a cell on a node.

    Returns:
        Its last event, and where this node does not see the driver's folder, the files to write there.
    """
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(wanted.threads))
    from dmlbench.runner.cell import run_claimed  # after the thread settings, which libraries read when they load

    if node.cwd.is_dir():  # paths of data and weights were typed there
        os.chdir(node.cwd)
    last: Event = Stopped()

    def emit(event: Event) -> None:
        nonlocal last
        if ending(event):
            last = event
            return
        stop = ray.get(mailbox.put.remote(task.cell.hash, event))
        if stop and may_stop(event):
            raise SystemExit(0)

    with ExitStack() as stack:
        shared = node.marker.is_file()
        folder = held.path.parent if shared else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        writer = CellWriter(folder, held.check if shared else lambda: None)
        with suppress(SystemExit):
            run_claimed(task.cell, writer, wanted.options, emit)
        names = [] if shared else [name for name in SHIPPED if (folder / name).is_file()]
        return last, {name: (folder / name).read_bytes() for name in names}
