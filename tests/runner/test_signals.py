import os
import signal
import subprocess
import sys
import threading

import pytest

from dmlbench.runner.signals import Interrupts, keeping_handlers, starting


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_stops(number):
    said = []
    before = signal.getsignal(number)
    with Interrupts(said.append) as interrupts:
        assert not interrupts.asked
        os.kill(os.getpid(), number)
        assert interrupts.asked
        assert not said  # nothing is printed from within a handler
        assert [interrupts.notice(), interrupts.notice()] == [True, False]
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_processes_started_meanwhile_ignore_the_signals_from_the_first():
    with starting():
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 0
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_handlers_that_a_library_sets_are_set_again():
    with Interrupts(print) as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        interrupts.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.asked


def test_a_library_replaces_no_handler_meanwhile_and_others_as_it_likes():
    before = signal.getsignal(signal.SIGUSR1)
    with Interrupts(print) as interrupts:
        with keeping_handlers():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.asked
    assert signal.signal(signal.SIGUSR1, before) is signal.SIG_IGN


def test_elsewhere_than_in_the_main_thread_nothing_is_handled():
    before, found = signal.getsignal(signal.SIGINT), []

    def enter():
        with Interrupts(print):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


def test_workers_keep_freed_memory_unless_the_user_has_a_say(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    before = dict(os.environ)
    with starting():
        assert os.environ["MALLOC_MMAP_MAX_"] == "7"
        assert int(os.environ["MALLOC_TRIM_THRESHOLD_"]) > 1 << 35
    assert dict(os.environ) == before
    monkeypatch.delenv("MALLOC_MMAP_MAX_")
    with starting():
        assert os.environ["MALLOC_MMAP_MAX_"] == "0"
    assert "MALLOC_MMAP_MAX_" not in os.environ
