"""`dmlbench tune`."""

import shlex
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
from dmlbench.errors import UserError, counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dmlbench.runner.execution import Execution
    from dmlbench.runner.progress import SafeConsole
    from dmlbench.specs.tuned import Finalist
    from dmlbench.tuning import Subject, Trial, Tuning


MOST_EPOCHS = 10_000_000
MOST_STUDIES = 100_000


def _refused(_: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """What an earlier release took; click's answer to an unknown option would not say what came in its place."""
    if value is not None:
        instead = "--epochs N: the total epochs of training for each method and dataset"
        what = {"--trials": "budgets are counted in epochs", "--seeds": "the schedule decides on seeds"}
        raise UserError(f"{parameter.opts[0]}: is no option of tune any more, {what[parameter.opts[0]]}", hint=instead)


@click.command("tune", cls=Command)
@methods_option()
@datasets_option()
@click.option(
    "--epochs",
    type=Whole(1, MOST_EPOCHS),
    help="Total epochs of training per method and dataset, e.g. 16 times those of the protocol. Required.",
)
@click.option(
    "--study-seed",
    type=Whole(0, MOST_STUDIES),
    default=0,
    show_default=True,
    help="Repeat the study with other values, folds and seeds; it is recorded beside the others.",
)
@click.option("--trials", hidden=True, expose_value=False, callback=_refused)
@click.option("--seeds", hidden=True, expose_value=False, callback=_refused)
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
    """Search values for every method with the same budget of epochs, and write the choices to tuned.yaml.

    Each training is scored by MAP@R on a fold of the training classes that it does not train on, with the images it
    trains on as distractors. The test classes are not used. Many configurations are trained for few epochs, the better
    part for more, and the finalists for all epochs on several folds and seeds. The values of the method's files are
    always a finalist, and stay unless another is better by more than one standard error of the paired difference.

    A modified method is searched on top of its base's chosen values; the base is tuned first where that is still to be
    done. Ranges are those that the method files declare under `search`.

    Rerun the same command to resume after an interruption: the outcome is the same as without it. Trials and tuned.yaml
    are in tuning/ in the results folder; `dmlbench run --tuned` uses them.

    \b
    Examples:
      dmlbench tune --methods ms,ms+obdsd --datasets glyphs --epochs 192
      dmlbench tune --methods ms --datasets glyphs --epochs 192 --study-seed 1
    """
    from dmlbench.results.store import Store
    from dmlbench.runner.execution import Execution, checked_device
    from dmlbench.runner.matrix import data_folder
    from dmlbench.runner.progress import plain_or_wide
    from dmlbench.specs.tuned import FOLDER, TRIALS, default_path, read_own, write_tuned
    from dmlbench.tuning import TuningRequest, plan_tuning

    if options["epochs"] is None:
        hint = "for example --epochs 320: 16 full trainings of 20 epochs for each method and dataset"
        raise UserError("--epochs: is required, the total epochs of training per method and dataset", hint=hint)
    console = plain_or_wide()
    request = TuningRequest(
        options["methods"], options["datasets"], options["epochs"], options["study_seed"], options["protocol"],
        options["settings"], options["methods_dir"], data_folder(options["data_dir"]), options["skip_bad"],
    )  # fmt: skip
    device = checked_device(options["device"])
    path = default_path(options["results"])
    known = read_own(path)  # a damaged file is reported before the trials, not after
    subjects = plan_tuning(request, console.say, known)
    store = Store(options["results"] / FOLDER / TRIALS)
    execution = Execution(store, request.data_dir, device, options["workers"], per_gpu=options["per_gpu"])
    store.check_writable()
    with _alone(path.parent):
        found = _tune(console, subjects, execution)
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


def _tune(console: "SafeConsole", subjects: "Sequence[Subject]", execution: "Execution") -> "Tuning":
    from dmlbench.runner import matrix
    from dmlbench.runner.matrix import without_teacher
    from dmlbench.runner.progress import Display
    from dmlbench.runner.signals import Interrupts
    from dmlbench.specs.tuned import in_words
    from dmlbench.tuning import Runner, tune

    def say(line: str) -> None:
        console.say(line)

    def tell(subject: "Subject", trial: "Trial") -> None:
        score = "diverged"
        if trial.map_at_r is not None and trial.recall_at_1 is not None:
            score = f"MAP@R {100 * trial.map_at_r:.2f}%, R@1 {100 * trial.recall_at_1:.2f}%"
        say(f"{trial.stage} {trial.number} of {trial.of}, {subject.label}: {score}  {in_words(trial.values)}")

    cells = [
        cell
        for subject in subjects
        for stage in subject.schedule.stages
        for cell in subject.cells(subject.files(), replace(stage, pairs=stage.pairs[:1]))
    ]
    matrix.make_ready(cells, execution, say)
    for note in without_teacher(cells):
        say(note)
    _print_plan(console, subjects, execution)
    with Interrupts(say) as interrupts:
        words = shlex.join(["dmlbench", *sys.argv[1:]])
        return tune(subjects, Runner(execution, lambda own: Display(console, len(own)), interrupts, words, tell))


def _print_plan(console: "SafeConsole", subjects: "Sequence[Subject]", execution: "Execution") -> None:
    """The schedule, and what is searched with it."""
    from rich.table import Table

    schedules = {subject.protocol.training.epochs: subject.schedule for subject in subjects if subject.searches}
    for epochs, schedule in schedules.items():
        amount = f"{schedule.budget / epochs:.1f}".removesuffix(".0")
        console.say(
            f"{counted(schedule.budget, 'epoch')} for each method and dataset: {amount} full trainings of "
            f"{counted(epochs, 'epoch')}, of which the schedule takes {schedule.cost}"
        )
        table = Table("stage", "configurations", "epochs each", "folds x seeds", "epochs in all", box=None)
        for stage in schedule.stages:
            table.add_row(*map(str, (stage.name, stage.configurations, stage.epochs, len(stage.pairs), stage.cost)))
        console.print(table)
    for subject in subjects:
        said = "" if subject.asked else "; not asked for, but what is built on it takes its values"
        if subject.method.distillation:
            source = "known" if subject.base_values is not None else "chosen here"
            said = f", on top of the values of {subject.method.base}, {source}"
        names = ", ".join(key.partition(".")[2] for key in subject.searches) or "nothing"
        console.say(f"{subject.label}: searches {names}{said}")
    console.say(f"scored on folds of the training classes; in {execution.store.root.parent}")


def _print(console: "SafeConsole", found: "Tuning") -> None:
    from rich.table import Table

    from dmlbench.specs.tuned import in_words

    table = Table(
        "method", "dataset", "study", "epochs", "MAP@R, R@1 of its files", "chosen", "won by", "values", box=None
    )
    for entry in found.entries:
        files = _scores(entry.finalists[0]) if entry.finalists else "–"
        chosen = next((_scores(own) for own in entry.finalists if own.values == entry.values), "–")
        row = (entry.method, entry.dataset, str(entry.study_seed), str(entry.epochs), files, chosen, entry.margin)
        table.add_row(*row, in_words(entry.values))
    if found.entries:
        console.print(table)
    for failure in found.failures:
        console.say(f"failed: {failure}")


def _scores(finalist: "Finalist") -> str:
    if not finalist.map_at_r:
        return "diverged"
    means = (sum(own) / len(own) for own in (finalist.map_at_r, finalist.recall_at_1))
    return ", ".join(f"{100 * mean:.2f}" for mean in means)
