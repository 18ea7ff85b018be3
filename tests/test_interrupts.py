import os
import signal
import threading

import pytest

from dmlbench.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_stops(number):
    said = []
    before = signal.getsignal(number)
    with Interrupts(said.append) as interrupts:
        assert not interrupts.asked
        os.kill(os.getpid(), number)
        assert interrupts.asked
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_elsewhere_than_in_the_main_thread_nothing_is_handled():
    before, found = signal.getsignal(signal.SIGINT), []

    def enter():
        with Interrupts(print):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]
