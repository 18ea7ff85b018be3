"""`dmlbench run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmlbench.cli.options import (
    MOST_PROCESSES,
    MOST_SEED,
    MOST_SEEDS,
    PATH,
    Command,
    checked_device,
    data_dir_option,
    datasets_option,
    device_option,
    methods_dir_option,
    methods_option,
    names,
    per_gpu_option,
    protocol_option,
    results_option,
    set_option,
    skip_bad_option,
    workers_option,
)
from dmlbench.errors import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmlbench.runner.matrix import Execution
    from dmlbench.runner.progress import SafeConsole
    from dmlbench.specs.cell import Cell


@click.command("run", cls=Command)
@methods_option()
@datasets_option()
@click.option("--seeds", type=click.IntRange(1, MOST_SEEDS), help="How many seeds: 0 to N-1 [default: 6].")
@click.option(
    "--seed", "chosen", type=click.IntRange(0, MOST_SEED), multiple=True, help="One seed by its number. Repeatable."
)
@protocol_option()
@set_option()
@click.option(
    "--tuned",
    is_flag=False,
    flag_value=".",
    type=PATH,
    metavar="[FILE]",
    help="Take the values that `dmlbench tune` found [default FILE: tuning/tuned.yaml of the results folder].",
)
@data_dir_option()
@methods_dir_option()
@results_option()
@click.option(
    "--tracking", type=click.Choice(["auto", "none"]), default="auto", show_default=True, help="MLflow, or nothing."
)
@click.option(
    "--system-metrics",
    is_flag=True,
    help="Have MLflow sample this machine (processor, memory, disk, network). Such cells take part in no time ratio.",
)
@workers_option()
@per_gpu_option()
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or a Ray cluster (pip install 'dmlbench[ray]').",
)
@click.option("--address", help="Ray cluster, e.g. auto or HOST:6379 [default: one of this machine alone].")
@click.option(
    "--data-workers",
    type=click.IntRange(0, MOST_PROCESSES),
    help="Loader processes per cell [default: none on a CPU, a share of the cores on a GPU].",
)
@device_option()
@click.option("--retry", type=click.Choice(["failed"]), help="Go on with failed cells, too, from their last epoch.")
@click.option(
    "--keep",
    callback=names,
    help="Keep weights, test embeddings or both (comma-separated). `evaluate --help` tells their format.",
)
@skip_bad_option()
@click.option(
    "--dry-run", is_flag=True, help="Check the cells; show their state, what is missing and the time they will take."
)
def command(**options: Any) -> int:  # noqa: ANN401 - click's options
    """Train and score methods on datasets over seeds. Finished cells are never run again.

    Whatever interrupts it, the same command goes on; Ctrl-C once finishes the epoch. Results in the folder that cannot
    be read are named and left out; the exit code is then 1.

    Six seeds are the default because fewer paired runs cannot reach p < .05 in an exact sign-flip test.

    \b
    Examples:
      dmlbench run --methods ms,ms+obdsd --datasets glyphs
      dmlbench run --methods triplet --datasets omniglot-small --seeds 2 --data-dir data --set training.epochs=3
    """
    from dmlbench.cli.tables import print_comparison, print_unfinished
    from dmlbench.results.store import Store
    from dmlbench.runner import matrix
    from dmlbench.runner.progress import plain_or_wide

    request = matrix.Request(
        options["methods"], options["datasets"], _seeds(options["seeds"], options["chosen"]),
        options["protocol"], options["settings"], options["methods_dir"],
        matrix.data_folder(options["data_dir"]), options["skip_bad"], _overlay(options["tuned"], options["results"]),
    )  # fmt: skip
    keep, device = _checked_keep(options["keep"]), checked_device(options["device"])
    if options["system_metrics"]:
        _check_system_metrics(options["tracking"], options["executor"])
    console = plain_or_wide()
    cells = matrix.plan(request, console.say)
    store = Store(options["results"])
    todo = matrix.pending(cells, store, retry_failed=options["retry"] == "failed")
    execution = matrix.Execution(
        store, request.data_dir, device, options["workers"], options["data_workers"], keep,
        options["per_gpu"], options["executor"], _checked_address(options["address"], options["executor"]),
        options["system_metrics"],
    )  # fmt: skip
    if options["dry_run"]:
        return _dry_run(console, cells, todo, execution)
    _run(console, cells, todo, execution, tracking=options["tracking"])
    print_comparison(console, store, cells)
    return print_unfinished(console, store, cells)


def _overlay(tuned: Path | None, results: Path) -> Path | None:
    from dmlbench.specs.tuned import default_path

    return default_path(results) if tuned == Path() else tuned


def _seeds(count: int | None, chosen: tuple[int, ...]) -> tuple[int, ...]:
    from dmlbench.errors import UserError

    if count is not None and chosen:
        raise UserError("--seeds and --seed exclude each other", hint="--seeds 6 runs 0 to 5, --seed 5 only the sixth")
    return tuple(dict.fromkeys(chosen)) or tuple(range(count or 6))


def _checked_keep(keep: tuple[str, ...]) -> tuple[str, ...]:
    from dmlbench.errors import unknown_name

    for name in keep:
        if name not in ("weights", "embeddings"):
            raise unknown_name("thing to keep", name, ("weights", "embeddings"), where="--keep")
    return keep


def _checked_address(address: str | None, executor: str) -> str | None:
    from importlib.util import find_spec

    from dmlbench.errors import UserError

    if address and executor != "ray":
        raise UserError(f"--address {address}: names a Ray cluster", hint="add --executor ray")
    if executor == "ray" and find_spec("ray") is None:
        raise UserError("--executor ray: Ray is not installed", hint="pip install 'dmlbench[ray]'")
    return address


def _check_system_metrics(tracking: str, executor: str) -> None:
    from importlib.util import find_spec

    from dmlbench.errors import UserError

    if tracking == "none":
        raise UserError("--system-metrics: with --tracking none there is nowhere to send them", hint="leave out one")
    if executor == "ray":
        raise UserError("--system-metrics: samples this machine, not a Ray cluster's", hint="--executor local")
    if find_spec("psutil") is None:
        raise UserError("--system-metrics: psutil is not installed", hint="pip install psutil")


def _run(
    console: "SafeConsole",
    cells: "Sequence[Cell]",
    todo: "Sequence[Cell]",
    execution: "Execution",
    *,
    tracking: str,
) -> None:
    from contextlib import nullcontext

    from dmlbench.cli.notes import notes
    from dmlbench.runner import matrix
    from dmlbench.runner.progress import Display
    from dmlbench.runner.signals import Interrupts

    say = console.say
    matrix.make_ready(todo, execution, say)
    say(_in_words(cells, todo, execution))
    for note in notes(cells, todo, execution):
        say(note)
    if not todo:
        return
    execution.store.plan(todo)
    mirror: Any = nullcontext()
    if tracking == "auto":
        from dmlbench.tracking import Mirror

        mirror = Mirror(say, system_metrics=execution.system_metrics)
    with mirror, Display(console, len(todo)) as display, Interrupts(say) as interrupts:
        observers = [display, mirror] if tracking == "auto" else [display]
        matrix.execute(todo, execution, observers, interrupts)
        if tracking == "auto":
            say("sending the last runs to MLflow")
    if interrupts.asked:
        raise KeyboardInterrupt


def _in_words(cells: "Sequence[Cell]", todo: "Sequence[Cell]", execution: "Execution") -> str:
    there = len(cells) - len(todo)
    states = [execution.store.state(cell) for cell in cells if cell not in todo] if there else []
    failed, damaged = states.count("failed"), states.count("damaged")
    which = f" ({failed} failed; --retry failed runs them again)" if failed else ""
    which += f" ({damaged} damaged)" if damaged else ""
    begun = sum(execution.store.state(cell) == "interrupted" for cell in todo)
    begun_words = f" ({begun} of them begun, to go on from the last epoch)" if begun else ""
    place = execution.store.root
    counts = f"{there} there already{which}, {len(todo)} to run{begun_words}"
    return f"{counted(len(cells), 'cell')}: {counts}; results in {place}"


def _dry_run(console: "SafeConsole", cells: "Sequence[Cell]", todo: "Sequence[Cell]", execution: "Execution") -> int:
    from rich.table import Table

    from dmlbench.cli.tables import print_damaged
    from dmlbench.data.ready import not_ready
    from dmlbench.models.checks import check_networks
    from dmlbench.runner import matrix

    downloads = check_networks(todo, download=False)
    table = Table("method", "dataset", "protocol", "seed", "cell", "state", box=None)
    for cell in cells:
        names_ = (cell.method.name, cell.dataset.name, cell.protocol.name)
        table.add_row(*names_, str(cell.seed), cell.hash[:8], execution.store.state(cell))
    console.print(table)
    damaged = print_damaged(console, execution.store, cells)
    if not todo:
        console.print(f"0 of {counted(len(cells), 'cell')} to run")
        return 1 if damaged else 0
    for missing in downloads:
        console.say(f"not ready: {missing}")
    for spec in {cell.dataset.name: cell.dataset for cell in todo}.values():
        if problem := not_ready(spec, execution.data_dir):
            console.say(f"not ready: {problem}")
    seconds = matrix.expected_seconds(todo, execution.store)
    threads = max((cell.protocol.training.cpu_threads for cell in cells), default=1)
    workers = len(matrix.worker_devices(execution, threads))
    known = "unknown (no past records of this protocol and dataset)"
    if seconds is not None:
        known = f"about {max(seconds / workers, seconds / len(todo)) / 60:.1f} minutes"
    console.print(
        f"{len(todo)} of {counted(len(cells), 'cell')} to run with {workers} at a time; time from past records: {known}"
    )
    return 1 if damaged else 0
