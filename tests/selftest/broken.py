"""Checks that end in every way, for the process that runs them."""

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from dmlbench.selftest.conditions import Conditions, SkipCheckError
from dmlbench.selftest.records import Figure, Outcome
from dmlbench.selftest.table import Check
from dmlbench.selftest.worker import work


def fine(conditions: Conditions) -> Outcome:
    figures = Figure(name="process", value=os.getpid()), Figure(name="seconds", value=conditions.seconds, at_least=0.1)
    return Outcome(figures=figures)


def off(_: Conditions) -> Outcome:
    return Outcome(figures=(Figure(name="error", value=2e-3, at_most=1e-3),))


def raising(_: Conditions) -> Outcome:
    raise RuntimeError("no kernel image is available\nfor execution on the device")


def skipping(_: Conditions) -> Outcome:
    raise SkipCheckError("nothing to see here")


def dying(_: Conditions) -> Outcome:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("unreachable")


STARTED = "SELFTEST_STARTED"  # names the file for the number of the process that `hanging` starts


def hanging(_: Conditions) -> Outcome:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ[STARTED]).write_text(str(child.pid))
    child.wait()
    raise AssertionError("unreachable")


def work_on_a_pretended_gpu(connection: Connection, device: str, scratch: Path) -> None:
    """The life of a worker whose torch says that there is a GPU, until it would use it."""
    torch.cuda.is_available = lambda: True
    torch.cuda.set_device = torch.cuda.reset_peak_memory_stats = lambda _: None
    work(connection, device, scratch)


def check_of(name: str, seconds: float = 1.0, most: float = 0.0) -> Check:
    return Check(name, f"what {name} shows", __name__, name, seconds, most)
