"""What goes to a terminal or a pipe: names from outside steer nothing, and no character ends the program."""

import os
import sys
from contextlib import nullcontext, suppress
from io import TextIOWrapper

import click

from dmlbench.errors import printable


def echo(line: str, *, err: bool = False) -> None:
    """Print one line, with whatever would steer a terminal as an escape."""
    with suppress(OSError) if err else nullcontext():  # an error that cannot be said has its exit code
        click.echo(printable(line), err=err)


def open_closed_streams() -> None:
    """Open the null device where a standard stream is closed, as schedulers and daemons may leave it.

    Else the next file or pipe gets the stream's number, and another process takes it for its output.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - to the end


def unwritten() -> int:
    """Say which standard stream could not be written, as on a full disk; 1 for any, 0 for none.

    What such a stream still holds is dropped: the interpreter would try once more at its end, and say so at length.
    A pipe whose reader has gone, such as `head`, has what it wants.
    """
    code = 0
    for number, name, stream in ((1, "standard output", sys.stdout), (2, "standard error", sys.stderr)):
        try:
            if stream is not None:  # of a host program that took it away
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            if not isinstance(error, BrokenPipeError):
                echo(f"error: {name}: {error.strerror}", err=True)
            code = 1
    return code


def escape_what_streams_cannot_say() -> None:
    """Have the standard streams, and those of processes to come, escape what their encoding lacks.

    A name that is no UTF-8, or a sign of multiplication on an ASCII terminal, would end a run with its results unsaid.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            os.environ["PYTHONIOENCODING"] = f"{stream.encoding}:backslashreplace"
