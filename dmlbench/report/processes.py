"""The figures of a large report are drawn in several processes: most of its time is drawing, on one core each."""

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from dmlbench.report.content import Map  # and with it, in every process, all that draws


@contextmanager
def mapping(workers: int) -> Iterator[Map]:
    """Yield a `map` over so many processes, or the plain one for a single worker.

    The processes start at once, so that they have imported what draws by the time there is something to draw.
    """
    if workers < 2:
        yield map
        return
    # Fresh interpreters: forked ones would inherit the locks of threads that numerical libraries keep.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    try:
        for _ in range(workers):
            pool.submit(_ready)
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _ready() -> None:
    """Do nothing: whoever can call this has imported this module."""


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
