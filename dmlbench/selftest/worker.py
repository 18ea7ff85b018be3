"""The process in which checks run: one after the other, on one device, until one breaks the process."""

import gc
import importlib
import os
import signal
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from dmlbench.errors import UserError, one_line
from dmlbench.results import environment as provenance
from dmlbench.runner.signals import SIGNALS
from dmlbench.selftest.conditions import SMALL, Conditions, SkipCheckError
from dmlbench.selftest.records import LOG, CheckRecord, Ready
from dmlbench.selftest.table import Check
from dmlbench.specs.protocol import load_protocol
from dmlbench.training.device import prepare, resolve_device


def work(connection: Connection, device: str, scratch: Path) -> None:
    """A worker's life: say what it works on, or why it cannot; then receive a check, run it, send its record."""
    for number in SIGNALS:  # they reach the whole group, and the parent decides what stops
        signal.signal(number, signal.SIG_IGN)
    _redirect_output(scratch / LOG)
    try:
        where = resolve_device(device)
        prepare(load_protocol(SMALL, "glyphs").training, where)
    except UserError as error:
        connection.send(error)
        return
    connection.send(
        Ready(device=str(where), environment=provenance.environment(str(where)), code=provenance.code_state())
    )
    while True:  # until the parent ends it
        check, seconds = connection.recv()
        connection.send(run_check(check, Conditions(where, seconds, scratch)))
        if where.type == "cuda":  # what this process keeps, another one that a check starts could not have
            gc.collect()
            torch.cuda.empty_cache()


def run_check(check: Check, conditions: Conditions) -> CheckRecord:
    """Run a check in this process; whatever it raises is a failure with a reason in one line."""
    begun = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is in the records
            module = importlib.import_module(check.module)
            outcome = getattr(module, check.function)(conditions)
    except SkipCheckError as why:
        return CheckRecord(name=check.name, title=check.title, status="skipped", reason=str(why))
    except Exception as error:  # noqa: BLE001 - a check that raises is a failure, and the others run
        reason = one_line(f"{type(error).__name__}: {error}".splitlines()[0])
        seconds = time.perf_counter() - begun
        return CheckRecord(name=check.name, title=check.title, status="fail", reason=reason, seconds=seconds)
    return CheckRecord.of(check.name, check.title, outcome, time.perf_counter() - begun)


def _redirect_output(log: Path) -> None:
    """Send what libraries print to a file, down to the C runtime's last words before a crash."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
