"""Runs cells on a Ray cluster, or on one of this machine's own: the way in, which imports Ray only when it is asked."""

import os
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path

from dmlbench.errors import UserError
from dmlbench.machine import usable_cores
from dmlbench.runner.signals import Interrupts, keeping_handlers
from dmlbench.runner.tasks import OnEvent, RunOptions, Share, Task

# Ray's own name for "nodes find each other by their network addresses". Without it all of a cluster that is started
# here listens on the loopback interface alone.
NETWORKED = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def run_ray(
    tasks: Sequence[Task],
    options: RunOptions,
    share: Share,
    root: Path,
    address: str | None,
    *,
    on_event: OnEvent,
    interrupts: Interrupts,
) -> None:
    """Run every task on a Ray cluster and report their events as they come.

    Without an address a cluster is started on this machine, which listens on the loopback interface only. A stop that
    is asked for ends every task after its epoch.

    Raises:
        UserError: where the cluster cannot be reached, or has no room for a single cell.
    """
    with _cluster(address), _marked(root) as marker:
        from dmlbench.runner.ray_driver import Driver, Node, needs

        interrupts.install()  # Ray's core has set handlers of its own, below Python's
        with Driver(tasks, needs(options, share), Node(Path.cwd(), marker), on_event) as driver:
            driver.run(interrupts)


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault(NETWORKED, "0")
    import ray

    _check_answers(address)
    init = partial(ray.init, log_to_driver=False, configure_logging=False)
    # Ray has its workers look for modules in the folder it starts in: a user's statistics.py there is none.
    with tempfile.TemporaryDirectory(prefix="dmlbench-ray-") as empty:
        try:
            with keeping_handlers(), chdir(empty):
                if address is None:
                    init("local", num_cpus=usable_cores(), include_dashboard=False)
                else:
                    init(address)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise _no_cluster(address, reason) from error
        try:
            yield
        finally:
            ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Ray itself waits for minutes, and hears no Ctrl-C, where nobody listens."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from error


def _no_cluster(address: str | None, reason: str) -> UserError:
    hint = "start one with `ray start --head`, or leave --address out for this machine alone"
    return UserError(f"--address {address}: no Ray cluster there ({reason})", hint=hint)


@contextmanager
def _marked(root: Path) -> Iterator[Path]:
    """A file in the results folder, by which a node knows whether it sees the same folder as the driver."""
    marker = root.resolve() / f".shared-{uuid.uuid4().hex}"
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)
