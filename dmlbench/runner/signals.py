"""What Ctrl-C means to a run: once, to stop after the epoch; twice, at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Notebooks name a way to draw that is not there, and a script called statistics.py in the working folder is no module.
_FOR_WORKERS = {"MPLBACKEND": "agg", "PYTHONSAFEPATH": "1"}
# glibc gives large freed blocks, such as feature maps and gradients, back to the system in every step and faults them
# in anew: up to a third of a step of S2SD by chance of the heap's layout, and more of a MobileNet's teacher than of its
# student, whose blocks are freed later. So the main thread maps no block apart and gives none back, unless the user
# wants something else.
_KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def for_workers() -> dict[str, str]:
    """The environment variables of worker processes that differ from this process's, or are set here anew."""
    return _FOR_WORKERS | {name: os.environ.get(name, value) for name, value in _KEEPS_MEMORY.items()}


class Stop(Protocol):
    """Says once that a stop is asked for."""

    def notice(self) -> bool: ...  # noqa: D102


class Interrupts:
    """Counts the requests to stop, from the keyboard or a scheduler, while it is entered.

    The first is there for executors to `notice`; the second raises KeyboardInterrupt where the program is.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._noticed = False
        self._say = say
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Handle the signals; once more after a library has set handlers of its own."""
        for number in self._before:
            signal.signal(number, self._handle)

    def notice(self) -> bool:
        """Whether a stop was asked for, true at the first call only, which prints a line."""
        if not self.asked or self._noticed:
            return False
        self._noticed = True
        self._say("stopping after this epoch; a second Ctrl-C stops at once (rerun the same command to resume)")
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True  # and nothing more: the program may be in the midst of printing


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Within, no library replaces the handlers of these signals in Python.

    Ray's own raises an exception wherever Python is, and where that is in another library's callback it is lost.
    """
    if threading.current_thread() is not threading.main_thread():  # where no library may set handlers
        yield
        return
    original = signal.signal

    def others_only(number: int, handler: Any) -> Any:  # noqa: ANN401 - as of `signal.signal`
        return signal.getsignal(number) if number in SIGNALS else original(number, handler)

    signal.signal = others_only  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = original


@contextmanager
def starting() -> Iterator[None]:
    """Start worker processes within: fresh interpreters that obey this one alone.

    They ignore the signals from their first moment, for these reach the whole group, and import neither the user's
    script, which so needs no main guard, nor modules of the working folder; nor do they draw on a notebook's page.
    SLURM's signal before a time limit reaches the group, too: it stays blocked in them, and waits in this one.
    """
    main = sys.modules["__main__"]
    script = {name: vars(main).pop(name) for name in ("__file__",) if name in vars(main)}
    spec, main.__spec__ = main.__spec__, None
    theirs = for_workers()
    environment = {name: os.environ.get(name) for name in theirs}
    os.environ.update(theirs)
    own = threading.current_thread() is threading.main_thread()  # others may not set handlers
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS} if own else {}
    limit = {signal.SIGUSR1, signal.SIGUSR2} if hasattr(signal, "pthread_sigmask") else set()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, limit) if limit else set()
    try:
        yield
    finally:
        if limit:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        vars(main).update(script)
        main.__spec__ = spec
