"""`dmlbench tune`."""

import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmlbench.api import MOST_SEEDS
from dmlbench.cli.options import (
    Command,
    Whole,
    data_dir_option,
    datasets_option,
    device_option,
    methods_dir_option,
    methods_option,
    per_gpu_option,
    protocol_option,
    results_option,
    set_option,
    skip_bad_option,
    workers_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dmlbench.runner.matrix import Execution
    from dmlbench.runner.progress import SafeConsole
    from dmlbench.specs.cell import Scalar
    from dmlbench.tuning import Subject, Trial, Tuning


MOST_TRIALS = 100_000


@click.command("tune", cls=Command)
@methods_option()
@datasets_option()
@click.option("--trials", type=Whole(2, MOST_TRIALS), required=True, help="Trials per method and dataset.")
@click.option(
    "--seeds",
    type=Whole(1, MOST_SEEDS),
    default=1,
    show_default=True,
    help="Seeds per trial; a trial is scored by their mean.",
)
@protocol_option()
@set_option(
    "Override a value of the protocol, e.g. training.epochs=3. Those of methods are searched instead. Repeatable."
)
@data_dir_option()
@methods_dir_option()
@results_option()
@workers_option()
@per_gpu_option()
@device_option()
@skip_bad_option()
def command(**options: Any) -> int:  # noqa: ANN401 - click's options
    """Search values for every method with the same number of trials, and write the best to tuned.yaml.

    A trial trains without a fifth of the training classes (or the share that validation.classes holds out) and is
    scored by R@1 on these held-out classes at the last epoch. The test classes are not used. The first trial uses the
    values of the method's files; the others draw from the ranges that the files declare under `search`. For a modified
    method the values of its base are searched, too.

    Rerun the same command to resume after an interruption: the outcome is the same as without it. A larger --trials
    adds trials to an existing search. Trials and tuned.yaml are in tuning/ in the results folder; `dmlbench run
    --tuned` uses them.

    \b
    Examples:
      dmlbench tune --methods ms,ms+obdsd --datasets glyphs --trials 8
      dmlbench tune --methods triplet,triplet+psd --datasets cub --trials 20 --seeds 3 --data-dir data
    """
    from dmlbench.results.store import Store
    from dmlbench.runner.matrix import Execution, checked_device, data_folder
    from dmlbench.runner.progress import plain_or_wide
    from dmlbench.specs.tuned import FOLDER, TRIALS, default_path, read_tuned, write_tuned
    from dmlbench.tuning import TuningRequest, plan_tuning

    console = plain_or_wide()
    request = TuningRequest(
        options["methods"], options["datasets"], options["seeds"], options["protocol"], options["settings"],
        options["methods_dir"], data_folder(options["data_dir"]), options["skip_bad"],
    )  # fmt: skip
    device = checked_device(options["device"])
    subjects = plan_tuning(request, console.say)
    store = Store(options["results"] / FOLDER / TRIALS)
    execution = Execution(store, request.data_dir, device, options["workers"], per_gpu=options["per_gpu"])
    path = default_path(options["results"])
    store.check_writable()
    if path.is_file():
        read_tuned(path)  # a damaged file is reported before the trials, not after
    with _alone(path.parent):
        found = _tune(console, subjects, options["trials"], execution)
        if found.entries:
            write_tuned(path, found.entries)
    _print(console, found)
    if found.entries:
        words = f"written to {path}; `dmlbench run --tuned` with the same --results uses it"
        console.say(words)
    return 1 if found.failures or len(found.entries) < len(subjects) else 0


@contextmanager
def _alone(folder: Path) -> "Iterator[None]":
    from filelock import FileLock, Timeout

    from dmlbench.errors import UserError

    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another `dmlbench tune` is at it", hint="wait for its end, or take another --results"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _tune(console: "SafeConsole", subjects: "Sequence[Subject]", trials: int, execution: "Execution") -> "Tuning":
    from dmlbench.runner import matrix
    from dmlbench.runner.matrix import without_teacher
    from dmlbench.runner.progress import Display
    from dmlbench.runner.signals import Interrupts
    from dmlbench.tuning import tune

    def say(line: str) -> None:
        console.say(line)

    def tell(subject: "Subject", trial: "Trial") -> None:
        score = "diverged" if trial.score is None else f"R@1 {100 * trial.score:.2f}%"
        say(f"trial {trial.number + 1} of {trials}, {subject.label}: {score}  {_in_words(trial.values)}")

    matrix.make_ready([cell for subject in subjects for cell in subject.cells(0, subject.values())], execution, say)
    for note in without_teacher([subject.cells(0, subject.values())[0] for subject in subjects]):
        say(note)
    say(f"{len(subjects)} x {trials} trials, scored on held-out training classes; in {execution.store.root.parent}")
    with Interrupts(say) as interrupts:
        words = shlex.join(["dmlbench", *sys.argv[1:]])
        return tune(
            subjects, trials, execution, lambda cells: Display(console, len(cells)), interrupts,
            command=words, tell=tell,
        )  # fmt: skip


def _print(console: "SafeConsole", found: "Tuning") -> None:
    from rich.table import Table

    table = Table(
        "method", "dataset", "trials", "R@1 of its files", "best R@1", "of trial", "won by", "values", box=None
    )
    for entry in found.entries:
        files = "diverged" if entry.recall_at_1_of_files is None else f"{100 * entry.recall_at_1_of_files:.2f}"
        best = f"{100 * entry.recall_at_1:.2f}"
        row = (entry.method, entry.dataset, str(entry.trials), files, best, str(entry.best + 1), entry.margin)
        table.add_row(*row, _in_words(entry.values))
    if found.entries:
        console.print(table)
    for note in found.notes:
        console.say(note)
    for failure in found.failures:
        console.say(f"failed: {failure}")


def _in_words(values: "Mapping[str, Scalar]") -> str:
    return ", ".join(f"{key.partition('.')[2]}={value}" for key, value in values.items())
