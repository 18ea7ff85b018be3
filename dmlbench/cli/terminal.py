"""What goes to a terminal or a pipe: names from outside steer nothing, and no character ends the program."""

import os
import sys
from io import TextIOWrapper

import click

from dmlbench.errors import printable


def echo(line: str, *, err: bool = False) -> None:
    """Print one line, with whatever would steer a terminal as an escape."""
    click.echo(printable(line), err=err)


def escape_what_streams_cannot_say() -> None:
    """Have the standard streams, and those of processes to come, escape what their encoding lacks.

    A name that is no UTF-8, or a sign of multiplication on an ASCII terminal, would end a run with its results unsaid.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            os.environ["PYTHONIOENCODING"] = f"{stream.encoding}:backslashreplace"
