"""What Ctrl-C means to a run: once, to stop after the epoch; twice, at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        """Whether a stop was asked for, true for the first look only; says so to the user."""
        if not self.asked or self._noticed:
            return False
        self._noticed = True
        self._say("stopping after this epoch; once more stops at once (either way the same command goes on)")
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True  # and nothing more: the program may be in the midst of printing


@contextmanager
def ignored() -> Iterator[None]:
    """Start processes within: they ignore the signals from their first moment, for these reach the whole group."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
