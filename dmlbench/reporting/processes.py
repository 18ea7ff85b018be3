"""The figures of a large report are drawn in several processes: most of its time is drawing, on one core each."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any

from dmlbench.runner.signals import starting

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextmanager
def mapping(workers: int) -> Iterator[Map]:
    """Yield a `map` over so many processes, of which this is one; the plain one for a single worker.

    The others start at once, so that they have imported what draws by the time there is something to draw.
    """
    if workers < 2:
        yield map
        return
    others = workers - 1
    # Fresh interpreters: forked ones would inherit the locks of threads that numerical libraries keep.
    pool = ProcessPoolExecutor(others, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    try:
        with starting():
            for _ in range(others):
                pool.submit(_import)
        yield partial(_shared, pool, others)
    finally:
        pool.shutdown(cancel_futures=True)


def _shared(
    pool: ProcessPoolExecutor, others: int, function: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
    """As `map`: the other processes take from the beginning, and this one from the end until its next item is there."""
    waiting = deque(enumerate(items))
    found: list[Future[Any]] = [Future() for _ in waiting]

    def hand_out() -> None:
        try:
            place, item = waiting.popleft()
        except IndexError:
            return
        try:
            pool.submit(function, item).add_done_callback(partial(take, place))
        except RuntimeError as error:  # a process has died
            found[place].set_exception(error)

    def take(place: int, other: Future[Any]) -> None:
        if other.cancelled() or (error := other.exception()) is None:
            found[place].cancel() if other.cancelled() else found[place].set_result(other.result())
        else:
            found[place].set_exception(error)
        hand_out()

    for _ in range(others):
        hand_out()
    try:
        for own in found:
            while not own.done():
                try:
                    place, item = waiting.pop()
                except IndexError:  # all are handed out
                    break
                found[place].set_result(function(item))
            yield own.result()
    finally:
        waiting.clear()


def _import() -> None:
    """Import what draws."""
    import_module("dmlbench.reporting.content")


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
