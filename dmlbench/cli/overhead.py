"""`dmlbench overhead`."""

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from dmlbench.api import MOST_PROCESSES
from dmlbench.cli.options import (
    Command,
    Whole,
    against_option,
    data_dir_option,
    device_option,
    methods_dir_option,
    methods_option,
    protocol_option,
    results_option,
    set_option,
)
from dmlbench.cli.terminal import echo
from dmlbench.errors import counted

if TYPE_CHECKING:
    from dmlbench.overhead.plan import CostPlan
    from dmlbench.results.measurements import Measurement
    from dmlbench.runner.progress import SafeConsole

PROCESSES, ROUNDS = 5, 10
MOST_ROUNDS = 100_000


@click.command("overhead", cls=Command)
@methods_option("Comma-separated methods; their bases are added.")
@protocol_option()
@click.option("--dataset", help="Use the images of this dataset.")
@click.option("--synthetic", is_flag=True, help="Use random pixels of 100 classes [default].")
@click.option(
    "--processes",
    type=Whole(1, MOST_PROCESSES),
    default=PROCESSES,
    show_default=True,
    help="Number of processes; they run one after the other.",
)
@click.option(
    "--rounds", type=Whole(10, MOST_ROUNDS), default=ROUNDS, show_default=True, help="Rounds in each process."
)
@set_option()
@against_option()
@data_dir_option()
@methods_dir_option()
@results_option()
@device_option()
def command(**options: Any) -> int:  # noqa: ANN401 - click's options
    """Measure the time and memory of a training step of each method, and their ratio to the base.

    In every round each method takes some steps, one after the other, in one process on one device. Ratios are formed
    within a round, intervals over several processes. Use a machine that runs nothing else. The measurement is written
    to overhead/ in the results folder, and reports show it.

    \b
    Examples:
      dmlbench overhead --methods ms,ms+psd,ms+obdsd --protocol conv4-64 --synthetic
      dmlbench overhead --methods ms+obdsd --protocol resnet50-128 --device cuda --set training.autocast=bfloat16
    """
    from dmlbench.analysis.groups import Against
    from dmlbench.cli.tables import print_agreement, print_costs
    from dmlbench.errors import Damaged, UserError
    from dmlbench.overhead.plan import CostRequest, plan_cost
    from dmlbench.results.measurements import read_measurements, write_measurement
    from dmlbench.results.store import Store
    from dmlbench.runner.execution import checked_device
    from dmlbench.runner.matrix import data_folder
    from dmlbench.runner.progress import plain_or_wide

    if options["dataset"] and options["synthetic"]:
        raise UserError("--dataset and --synthetic exclude each other", hint="leave out one")
    console = plain_or_wide()
    against = options["against"]
    methods = tuple(dict.fromkeys([*options["methods"], *([against] if against else [])]))
    request = CostRequest(
        methods, options["protocol"], options["dataset"], options["settings"], options["methods_dir"],
        data_folder(options["data_dir"]),
    )  # fmt: skip
    results, device = options["results"], checked_device(options["device"])
    plan = plan_cost(request, console.say)
    Store(results).check_writable()
    left_out: list[Damaged] = []
    earlier = read_measurements([results], left_out.append)
    for found in left_out:  # before the measurement, not after
        echo(f"left out: {found.reason}", err=True)
    measurement = _measure(console, plan, device, options["processes"], options["rounds"])
    path = write_measurement(results, measurement)
    print_costs(console, measurement, Against(against))
    print_agreement(console, measurement, earlier)
    console.say(f"written to {path}; `dmlbench report` shows it")
    return 1 if left_out else 0


def _measure(console: "SafeConsole", plan: "CostPlan", device: str, processes: int, rounds: int) -> "Measurement":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dmlbench.overhead.measure import WARM_UP, Effort, measure

    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    effort, done = Effort(processes, rounds), 0
    each = f"{rounds} rounds after {WARM_UP} to warm up"
    console.print(f"{counted(len(plan.methods), 'method')}, {processes} x {each}", markup=False)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("rounds", total=effort.total)

        def tell() -> None:
            nonlocal done
            done += 1
            progress.update(task, completed=done)
            if not console.is_terminal and done % max(1, effort.total // 4) == 0:
                console.print(f"round {done} of {effort.total}")

        return measure(plan, device, effort, shlex.join(["dmlbench", *sys.argv[1:]]), tell)
