"""`dmlbench run`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmlbench.api import MOST_PROCESSES, MOST_SEED, MOST_SEEDS
from dmlbench.cli.options import (
    PATH,
    Command,
    Whole,
    against_option,
    claim_option,
    data_dir_option,
    datasets_option,
    device_option,
    gpus_per_cell_option,
    methods_dir_option,
    methods_option,
    names,
    per_gpu_option,
    protocol_option,
    results_option,
    set_option,
    skip_bad_option,
    tuned_option,
    vary_option,
    workers_option,
)
from dmlbench.errors import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeVar

    from dmlbench.runner.execution import Execution
    from dmlbench.runner.matrix import Request
    from dmlbench.runner.progress import SafeConsole
    from dmlbench.specs.cell import Cell
    from dmlbench.specs.study import Claim, StudyFile

    Given = TypeVar("Given")

# Options that say how cells run, by their names in `checked_execution`.
EXECUTION = (
    "tracking", "device", "workers", "data_workers", "keep", "per_gpu", "gpus_per_cell", "executor", "address",
    "system_metrics", "slurm", "wait",
)  # fmt: skip


@click.command("run", cls=Command)
@click.argument("study", required=False, type=PATH)
@methods_option(required=False)
@datasets_option(required=False)
@click.option("--seeds", type=Whole(1, MOST_SEEDS), help="Number of seeds: 0 to N-1 [default: 6].")
@click.option(
    "--seed",
    "chosen",
    type=Whole(0, MOST_SEED),
    multiple=True,
    help="A single seed, in place of --seeds: --seed 0 --seed 5 runs these two. Repeatable.",
)
@protocol_option()
@set_option()
@vary_option()
@claim_option(
    "Declare before the runs that a modifier improves these bases, e.g. psd:contrastive,triplet; their methods are "
    "added. Repeatable."
)
@against_option()
@tuned_option()
@data_dir_option()
@methods_dir_option()
@results_option()
@click.option(
    "--tracking",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="Log to MLflow (auto), or do not.",
)
@click.option(
    "--system-metrics",
    is_flag=True,
    help="Log processor, memory, disk and network use to MLflow. Such cells are excluded from timing comparisons.",
)
@workers_option()
@per_gpu_option()
@gpus_per_cell_option()
@click.option(
    "--executor",
    type=click.Choice(["local", "ray", "slurm"]),
    default="local",
    show_default=True,
    help="Run in processes on this machine, on a Ray cluster (pip install 'dmlbench[ray]'), or as SLURM jobs (pip "
    "install 'dmlbench[slurm]').",
)
@click.option(
    "--address", help="Address of the Ray cluster, e.g. auto or HOST:6379 [default: start one on this machine]."
)
@click.option(
    "--slurm",
    multiple=True,
    metavar="FILE|KEY=VALUE",
    help="Set what SLURM jobs ask for, by a YAML file or single values, e.g. --slurm gpu.yaml --slurm time=4:00:00. "
    "Keys: time, partition, account, qos, gres, memory, cpus, setup, options, cells_per_job, jobs_at_a_time, "
    "stop_before; see docs/guides/slurm.md. Repeatable.",
)
@click.option("--wait", is_flag=True, help="Follow SLURM jobs to their end instead of submitting them alone.")
@click.option(
    "--data-workers",
    type=Whole(0, MOST_PROCESSES),
    help="Loader processes per cell [default: none on a CPU, a share of the cores on a GPU].",
)
@device_option()
@click.option("--retry", type=click.Choice(["failed"]), help="Resume failed cells, too, from their last checkpoint.")
@click.option(
    "--keep",
    callback=names,
    help="Save weights, embeddings or both, comma-separated; `evaluate --help` describes the format.",
)
@skip_bad_option()
@click.option(
    "--dry-run",
    is_flag=True,
    help="Run nothing: show cells and expected time; exit code 1 if data or weights are not on this machine.",
)
def command(**options: Any) -> int:  # noqa: ANN401 - click's options
    """Train and score methods on datasets over seeds.

    A cell is one method on one dataset with one seed; finished cells are never run again. STUDY is a YAML file with
    the keys methods, datasets, seeds, protocol, settings and claims; what it leaves out is given as an option.

    Rerun the same command to resume after an interruption. Ctrl-C stops after the current epoch, a second Ctrl-C at
    once. The exit code is 1 if a cell failed or is not done, or if a result in the folder cannot be read; such a
    result is named and left out.

    Six seeds are the default because fewer paired runs cannot reach p < .05 in an exact sign-flip test.

    \b
    Examples:
      dmlbench run --methods ms,ms+obdsd --datasets glyphs
      dmlbench run study.yaml --data-dir data
    """
    from dmlbench.analysis.groups import Against
    from dmlbench.api.execution import checked_execution
    from dmlbench.api.study import run_cells
    from dmlbench.cli.tables import print_claims, print_comparison, print_unfinished
    from dmlbench.results.claims import check_claims
    from dmlbench.results.store import DEFAULT_ROOT, Store
    from dmlbench.runner import matrix
    from dmlbench.runner.progress import plain_or_wide

    claims, study = claims_of(options), _study(options)
    request = requested(options, _seeds(options["seeds"], options["chosen"], study.seeds), claims)
    store, console = Store(options["results"]), plain_or_wide()
    execution = checked_execution(store, request.data_dir, **{name: options[name] for name in EXECUTION})
    cells = matrix.plan(request, console.say)
    todo = matrix.pending(cells, store, retry_failed=options["retry"] == "failed")
    check_claims(claims, cells)
    _check_against(options["against"], cells)
    if options["dry_run"]:
        return _dry_run(console, cells, todo, execution, claims)
    run_cells(console, cells, todo, execution, tracking=options["tracking"], claims=claims)
    if execution.slurm and todo and not execution.wait:
        return 0  # nothing has run yet
    base = next((name for name in request.methods if "+" not in name), "")
    print_comparison(console, store, cells, Against(options["against"], base))
    print_claims(console, store, cells)
    code = print_unfinished(console, store, cells)
    if code == 0:
        named = "" if store.root == DEFAULT_ROOT else f" --results {shlex.quote(str(store.root))}"
        console.say(f"`dmlbench report{named}` renders this folder's results as a page")
    return code


def requested(options: "Mapping[str, Any]", seeds: tuple[int, ...], claims: "Sequence[Claim]") -> "Request":
    """What the command line and the study ask for, with the methods of its claims and the values found by tuning."""
    from dmlbench.api.study import with_claimed
    from dmlbench.runner.matrix import Request, data_folder

    study = _study(options)
    methods = with_claimed(_given("--methods", options["methods"], study.methods), claims, options["methods_dir"])
    datasets = _given("--datasets", options["datasets"], study.datasets)
    _check_some(options["study"], methods=methods, datasets=datasets)
    return Request(
        methods, datasets, seeds, _given("--protocol", options["protocol"], study.protocol),
        _given("--set", options["settings"], study.changes) + _vary(options["vary"]), options["methods_dir"],
        data_folder(options["data_dir"]), options["skip_bad"], _overlay(options["tuned"], options["results"]),
    )  # fmt: skip


def _overlay(tuned: Path | None, results: Path) -> Path | None:
    from dmlbench.specs.tuned import default_path

    return default_path(results) if tuned == Path() else tuned


def _check_against(against: str, cells: "Sequence[Cell]") -> None:
    """Before anything runs; a network of several that is named has the name of its method before the brace."""
    from dmlbench.analysis.groups import method_name
    from dmlbench.errors import unknown_name
    from dmlbench.results.frames import MEAN
    from dmlbench.results.records import facts

    known = {method_name(vars(facts(cell)) | {"network": MEAN}) for cell in cells}
    if against and against not in known and not any(against.startswith(f"{name}{{") for name in known):
        raise unknown_name("method of this run", against, sorted(known), where="--against")


def _vary(source: str | None) -> tuple[str, ...]:
    return (f"training.vary={source}",) if source else ()


def _study(options: "Mapping[str, Any]") -> "StudyFile":
    from dmlbench.specs.study import StudyFile, read_study

    return read_study(options["study"]) if options["study"] else StudyFile()


def claims_of(options: "Mapping[str, Any]") -> "tuple[Claim, ...]":
    """The claims of the study and of the command line."""
    from dmlbench.specs.study import parse_claim

    return (*_study(options).claims, *map(parse_claim, options["claims"]))


def _given(option: str, typed: "Given", stated: "Given") -> "Given":
    """A value of the command line or of the study; raises UserError where both have one."""
    from dmlbench.errors import UserError

    if typed and stated:
        raise UserError(f"{option}: the study has a value, too", hint="leave out one of the two")
    return typed or stated


def _check_some(study: Path | None, **names: tuple[str, ...]) -> None:
    for name, given in names.items():
        if not given:
            in_study = f", and `{name}:` in {study}" if study else ""
            raise click.UsageError(f"Missing option '--{name}'{in_study}")


def _seeds(count: int | None, chosen: tuple[int, ...], stated: int | tuple[int, ...] | None) -> tuple[int, ...]:
    from dmlbench.errors import UserError

    if count is not None and chosen:
        raise UserError("--seeds and --seed exclude each other", hint="--seeds 6 runs 0 to 5, --seed 5 only the sixth")
    given = _given("--seeds", count or tuple(dict.fromkeys(chosen)), stated) or 6
    return tuple(range(given)) if isinstance(given, int) else given


def _dry_run(
    console: "SafeConsole",
    cells: "Sequence[Cell]",
    todo: "Sequence[Cell]",
    execution: "Execution",
    claims: "Sequence[Claim]",
) -> int:
    from rich.table import Table

    from dmlbench.cli.tables import print_damaged, print_power
    from dmlbench.data.ready import not_ready
    from dmlbench.results.claims import in_advance
    from dmlbench.runner.execution import check_gpus_per_cell
    from dmlbench.runner.matrix import check_protocols

    for line in in_advance(claims, cells, execution.store):
        console.say(f"claim: {line}")
    check_gpus_per_cell(todo, execution)
    downloads = check_protocols(todo, execution, download=False)
    table = Table("method", "dataset", "protocol", "seed", "cell", "state", box=None)
    for cell in cells:
        own = (cell.method.name, cell.dataset.name, cell.protocol.name, str(cell.seed), cell.hash[:8])
        table.add_row(*own, execution.store.state(cell))
    console.print(table)
    print_power(console, execution.store, cells)
    damaged = print_damaged(console, execution.store, cells)
    if not todo:
        console.print(f"0 of {counted(len(cells), 'cell')} to run")
        return 1 if damaged else 0
    datasets = {cell.dataset.name: cell.dataset for cell in todo}.values()
    missing = [*downloads, *filter(None, (not_ready(spec, execution.data_dir) for spec in datasets))]
    for problem in missing:
        console.say(f"not ready: {problem}")
    if execution.executor == "slurm":
        todo = _print_script(console, todo, execution)
    console.print(f"{len(todo)} of {counted(len(cells), 'cell')} to run{_time(cells, todo, execution) if todo else ''}")
    return 1 if damaged or missing else 0


def _print_script(console: "SafeConsole", todo: "Sequence[Cell]", execution: "Execution") -> "Sequence[Cell]":
    """Print what sbatch would get; the cells that would be submitted, without those that jobs have."""
    from dmlbench.runner.execution import notes_on_execution
    from dmlbench.runner.slurm import check_script, dry_run, not_again

    script, held = dry_run(todo, execution, lambda found: console.say(f"left out: {found.reason}"))
    console.print(script, markup=False, soft_wrap=True)
    for line in notes_on_execution(todo, execution):
        console.say(line)
    for line in not_again(held):
        console.say(line)
    for cell in (cell for cell in todo if cell.hash in held):
        console.say(f"{cell.label}: {held[cell.hash]}")
    if script:
        check_script(script)
    return [cell for cell in todo if cell.hash not in held]


def _at_a_time(execution: "Execution", threads: int, cells: int) -> int:
    """Cells at a time: of SLURM's jobs all, unless the user limits them."""
    from dmlbench.runner.execution import cells_of_a_job, worker_devices

    if execution.slurm is None:
        return len(worker_devices(execution, threads))
    jobs = -(-cells // execution.slurm.cells_per_job)
    return min(cells, min(jobs, execution.slurm.jobs_at_a_time or jobs) * cells_of_a_job(execution, threads))


def _time(cells: "Sequence[Cell]", todo: "Sequence[Cell]", execution: "Execution") -> str:
    from dmlbench.runner import matrix

    seconds = matrix.expected_seconds(todo, execution.store)
    threads = max((cell.protocol.training.cpu_threads for cell in cells), default=1)
    workers = _at_a_time(execution, threads, len(todo))
    known = "unknown (no past records of this protocol and dataset)"
    if seconds is not None:
        known = f"about {max(seconds / workers, seconds / len(todo)) / 60:.1f} minutes"
    return f" with {workers} at a time; time from past records: {known}"
