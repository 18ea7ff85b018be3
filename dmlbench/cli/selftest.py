"""`dmlbench selftest`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import Command, Whole, device_option, results_option

if TYPE_CHECKING:
    from dmlbench.runner.progress import SafeConsole
    from dmlbench.selftest.records import CheckRecord, Report
    from dmlbench.selftest.table import Check

MINUTES, MOST_MINUTES = 5, 240
STYLES = {"pass": "green", "fail": "bold red", "skipped": "yellow"}


@click.command("selftest", cls=Command)
@device_option()
@click.option(
    "--minutes",
    type=Whole(1, MOST_MINUTES),
    default=MINUTES,
    show_default=True,
    help="Time for all checks; what no longer fits is skipped.",
)
@results_option()
def command(device: str, minutes: int, results: Path) -> int:
    """Check that results of this device are correct and repeatable; measure its speed and memory.

    Check losses, modifiers and metrics against the CPU in float64; two trainings, and a killed and resumed one, bit by
    bit; waits for the device, batches, faiss, bfloat16, memory, the loader's rate and the overhead of ms+psd. Save the
    figures with their bounds to selftest/ in the results folder. The exit code is 1 if a check fails.

    \b
    Examples:
      dmlbench selftest
      dmlbench selftest --device cuda --minutes 10
    """
    from dmlbench.results.store import Store
    from dmlbench.runner.execution import checked_device
    from dmlbench.runner.progress import plain_or_wide
    from dmlbench.selftest.records import save

    console = plain_or_wide()
    checked_device(device)
    Store(results).check_writable()
    report = _run(console, device, minutes)
    folder = save(results, report)
    _print(console, report)
    console.say(
        f"written to {folder}; docs/guides/selftest.md says what each line means, and what to do where one fails"
    )
    return 1 if report.failed else 0


def _run(console: "SafeConsole", device: str, minutes: int) -> "Report":
    from rich.text import Text

    from dmlbench.selftest.run import run_checks
    from dmlbench.selftest.table import CHECKS

    names = [check.name for check in CHECKS]
    with console.status("starting", spinner="dots") as status:

        def tell(check: "Check", record: "CheckRecord | None") -> None:
            count = f"[{names.index(check.name) + 1}/{len(names)}] {check.name}"
            if record is None:
                status.update(Text(f"{count}: {check.title}"))
            else:
                console.say(f"{count}: {record.status} in {record.seconds:.0f} s")

        return run_checks(device, minutes, tell)


def _print(console: "SafeConsole", report: "Report") -> None:
    from rich.table import Table
    from rich.text import Text

    console.print()
    console.say(f"{report.device_name} ({report.device})")
    table = Table("check", "result", "what and figures", "seconds", box=None)
    for check in report.checks:
        style = STYLES[check.status]
        table.add_row(check.name, Text(check.status, style), check.title, f"{check.seconds:.1f}")
        for line in check.lines:
            table.add_row("", "", Text(f"  {line}", style if check.status == "fail" else "dim"), "")
    console.print(table)
    console.say(report.verdict)
