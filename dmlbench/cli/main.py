"""The `dmlbench` command: finds subcommands, prints errors as one line, and sets the exit code."""

import errno
import importlib
import os
import signal
import sys
from typing import Any

import click

from dmlbench import __version__
from dmlbench.cli.terminal import echo, escape_what_streams_cannot_say, open_closed_streams, unwritten
from dmlbench.errors import StorageError, UserError, one_line
from dmlbench.runner.signals import for_workers

# Name: (module below dmlbench.cli, one line for the overview). Modules load when their command is used.
COMMANDS = {
    "run": "Train and score methods on datasets over seeds.",
    "prefetch": "Load a run's data and weights where there is internet.",
    "report": "Render results as a page, tables and figures.",
    "list": "List methods, datasets or protocols.",
    "show": "Show a method's resolved values and where each comes from.",
    "validate": "Check method files: build each and train a step.",
    "status": "Show which cells are done, running, failed or missing; verify results.",
    "evaluate": "Score saved weights, embeddings of your own, or a network as it is.",
    "tune": "Search values for every method with equal budgets, on training classes.",
    "overhead": "Measure the time and memory of a training step of each method.",
    "sync": "Log results to MLflow that it does not have yet.",
    "reproduce": "Train random recorded cells again, and compare the numbers.",
    "submit": "Check a results folder, and pack it for a pull request.",
    "ui": "Serve the MLflow UI of the store that runs are logged to.",
    "data": "Fetch, check or show a dataset.",
    "doctor": "Check Python, torch, GPU, faiss, disk and data.",
    "selftest": "Check in minutes that results of this device are correct and repeatable.",
}


class Commands(click.Group):
    """Loads a subcommand's module only when it is called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"dmlbench.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's
        """As click does, but a command that stops as its reader has gone, such as `head`, says so."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if ctx.invoked_subcommand in RESUMED:
                echo(f"error: standard output: its reader has gone; {KEPT}", err=True)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command named for a misspelt one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from dmlbench.errors import unknown_name

            raise unknown_name("command", args[0], COMMANDS, command="dmlbench --help")
        return super().resolve_command(ctx, args)


RESUMED = {"run", "tune"}  # commands that go on where they ended
UNWRITTEN = (errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF)  # of an output that takes no more
KEPT = "finished epochs are kept: rerun the same command to resume"


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="dmlbench")
@click.pass_context
def dmlbench(context: click.Context) -> None:
    """Reproducible benchmarks for deep metric learning.

    \b
    Examples:
      dmlbench run --methods ms,ms+obdsd --datasets glyphs
      dmlbench report --name first
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Entry point: 0 all done, 1 a cell failed, 2 usage, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's polite end is an interrupt, too
    os.environ |= for_workers()  # the processes of this command are its own
    open_closed_streams()
    escape_what_streams_cannot_say()
    code = _called()
    lost = unwritten()
    sys.exit(code or lost)


def _called() -> int:
    """Call the command, say in one line why it could not do its work, and return the exit code."""
    resumes = {*sys.argv[1:2]} & RESUMED
    try:
        code = dmlbench.main(standalone_mode=False)
    except UserError as error:
        return _ended(2, f"error: {error}")
    except StorageError as error:
        resume = "everything written before is intact; rerun the same command to resume"
        return _ended(1, f"error: {one_line(str(error))}; {resume}")
    except click.ClickException as error:
        hint = f"; see `{error.ctx.command_path} --help`" if isinstance(error, click.UsageError) and error.ctx else ""
        message = " ".join(error.format_message().split()).rstrip(".")  # click lists choices on lines of their own
        return _ended(2, f"error: {one_line(message)}{hint}")
    except OSError as error:  # what a system refuses of a name or a folder, wherever it is met
        said = f"error: {one_line(_refused(error))}"
        if error.filename is None and error.errno in UNWRITTEN and unwritten():  # the output's, and said there
            said = KEPT if resumes else ""
        return _ended(2 if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP) else 1, said)
    except (KeyboardInterrupt, click.Abort) as stop:
        said = str(stop.__cause__ or stop)  # click puts an Abort around what a command raises
        return _ended(130, said or f"interrupted{f'; {KEPT}' if resumes else ''}")
    return code if isinstance(code, int) else 0


def _ended(code: int, line: str) -> int:
    if line:
        echo(line, err=True)
    return code


def _refused(error: OSError) -> str:
    """The system's error, with the file's name where there is one."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason
