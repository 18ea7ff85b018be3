"""What Ctrl-C means to a run: once, to stop after the epoch; twice, at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Counts the requests to stop, from the keyboard or a scheduler, while it is entered.

    The first sets `asked`, which executors look at; the second raises KeyboardInterrupt where the program is.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._say("stopping after this epoch; once more stops at once (either way the same command goes on)")
