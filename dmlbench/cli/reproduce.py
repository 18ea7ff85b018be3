"""`dmlbench reproduce`."""

import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmlbench.cli.options import (
    PATH,
    Command,
    Whole,
    data_dir_option,
    datasets_option,
    device_option,
    methods_dir_option,
    only_option,
    per_gpu_option,
    results_folders_option,
    set_option,
    workers_option,
)
from dmlbench.errors import UserError, counted, inflected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dmlbench.analysis.reproduction import Reproduction
    from dmlbench.results.store import Store
    from dmlbench.runner.execution import Execution
    from dmlbench.runner.progress import SafeConsole
    from dmlbench.runner.reproduction import Recorded
    from dmlbench.specs.cell import Cell

CELLS, MOST_CELLS, MOST_DRAW = 3, 1_000_000, 999_999


@click.command("reproduce", cls=Command)
@results_folders_option()
@only_option("Draw only from some: COLUMN is protocol, dataset or method, e.g. dataset=glyphs. Repeatable.")
@click.option("--cells", type=Whole(1, MOST_CELLS), help=f"Number of cells to train again [default: {CELLS}].")
@click.option(
    "--draw-seed", type=Whole(0, MOST_DRAW), help="Draw the same cells as an earlier command, which printed this seed."
)
@click.option(
    "--output",
    type=PATH,
    default=Path("results/reproduced"),
    show_default=True,
    help="Folder for the new results. The recorded ones are never changed.",
)
@datasets_option("Say where images of your own are: NAME=FOLDER, NAME=FILE.csv, or YAML files.", required=False)
@set_option("Say where weights are: model.weights=FILE or modifier.teacher_weights=FILE. Repeatable.")
@data_dir_option()
@methods_dir_option("Folder with the Python plugins of recorded methods.")
@workers_option()
@per_gpu_option()
@device_option()
def command(**options: Any) -> int:  # noqa: ANN401 - click's options
    """Train random recorded cells again, and say whether this machine gets the recorded numbers.

    Each cell is trained as its spec.yaml says. Images, weights and plugins must have the recorded contents, which is
    checked before anything trains.

    A cell is equal to the last bit if every metric of every epoch is. Otherwise, if the processor, a library or the
    training code is not the recorded one, bits may differ: then the differences in R@1 and MAP@R of the last epoch must
    be within the 95% prediction interval for two seeds of that method. On the same kind of machine, with the same
    libraries and training code, anything but equal bits differs.

    The exit code is 1 if a cell differs, failed, has no verdict (fewer than 3 seeds are recorded), or cannot be read.

    \b
    Examples:
      dmlbench reproduce --results results/reference --only dataset=glyphs
      dmlbench reproduce --results results/reference --cells 5 --datasets cub50=birds --set model.weights=weights.pth
    """
    from dmlbench.errors import Damaged
    from dmlbench.results.store import Roots
    from dmlbench.runner.progress import plain_or_wide
    from dmlbench.runner.reproduction import check_output, drawn, finished

    left_out: list[Damaged] = []
    console = plain_or_wide()
    roots, execution = Roots.of(options["results"]), _execution(options)
    check_output(execution.store, roots)
    every = finished(roots, options["only"], left_out.append)
    for damaged in left_out:
        console.say(f"left out: {damaged.reason}")
    if options["cells"] and options["cells"] > len(every):
        raise UserError(f"--cells {options['cells']}: {counted(len(every), 'cell')} finished", hint="give fewer")
    draw_seed = random.randrange(MOST_DRAW) if options["draw_seed"] is None else options["draw_seed"]  # noqa: S311
    chosen = drawn(every, options["cells"] or CELLS, draw_seed)
    cells = _ready(console, chosen, every, execution, options)
    many = f"{len(chosen)} of {counted(len(every), 'finished cell')}"
    console.say(f"{many} {inflected(len(chosen), 'is', 'are')} trained again (--draw-seed {draw_seed})")
    _train(console, cells, execution, draw_seed)
    found = [_compared(one, cell, every, execution.store) for one, cell in zip(chosen, cells, strict=True)]
    for one, own in zip(chosen, found, strict=True):
        console.say(_line(one, own))
    console.say(_summary(found))
    return 0 if all(own.verdict.agrees for own in found) and not left_out else 1


def _execution(options: "Mapping[str, Any]") -> "Execution":
    from dmlbench.results.store import Store
    from dmlbench.runner.execution import Execution, checked_device
    from dmlbench.runner.matrix import data_folder

    store, device = Store(options["output"]), checked_device(options["device"])
    data_dir = data_folder(options["data_dir"])
    return Execution(store, data_dir, device, options["workers"], per_gpu=options["per_gpu"])


def _ready(
    console: "SafeConsole",
    chosen: "Sequence[Recorded]",
    every: "Sequence[Recorded]",
    execution: "Execution",
    options: "Mapping[str, Any]",
) -> "list[Cell]":
    """The cells as this machine trains them."""
    from dmlbench.runner.reproduction import Sources, check_earlier, located

    sources = Sources(options["datasets"], options["settings"], options["methods_dir"], execution.data_dir)
    cells = located(chosen, every, sources, console.say)
    check_earlier(chosen, execution)
    return cells


def _train(console: "SafeConsole", cells: "Sequence[Cell]", execution: "Execution", draw_seed: int) -> None:
    from dmlbench.api.study import run_cells
    from dmlbench.runner.matrix import pending

    todo = pending(cells, execution.store, retry_failed=True)
    try:
        run_cells(console, cells, todo, execution, tracking="none")
    except KeyboardInterrupt:
        again = f"the same command with --draw-seed {draw_seed} resumes"
        raise KeyboardInterrupt(f"interrupted; finished epochs are kept: {again}") from None


def _compared(one: "Recorded", cell: "Cell", every: "Sequence[Recorded]", output: "Store") -> "Reproduction":
    from dmlbench.analysis.reproduction import Reproduction, Verdict, compare
    from dmlbench.results.store import Record
    from dmlbench.runner.reproduction import seeds_of

    again = output.record(cell)
    if isinstance(again, Record):
        return compare(one.record, again, seeds_of(one, every))
    reason = again.reason if again else "another process trains it, or its folder cannot be written"
    return Reproduction(Verdict.UNFINISHED, reason=reason)


def _line(one: "Recorded", own: "Reproduction") -> str:
    """A cell's verdict in words: `ms on glyphs, seed 0: differs; R@1 62.35 recorded, 60.20 here (-2.15); ...`."""
    from dmlbench.analysis.groups import method_name
    from dmlbench.analysis.reproduction import Verdict
    from dmlbench.reporting.naming import metric_name, percent, points
    from dmlbench.results.frames import MEAN

    facts = one.facts
    label = f"{method_name(vars(facts) | {'network': MEAN})} on {facts.dataset}, seed {facts.seed}"
    parts = [str(own.verdict)]
    for change in own.changes[:1] if own.verdict is Verdict.EQUAL else own.changes:
        limit = f" of at most {100 * change.most:.2f}" if change.most is not None and own.spread_counts else ""
        values = f"{percent(change.recorded)} recorded, {percent(change.again)} here"
        parts.append(f"{metric_name(change.metric)} {values} ({points(change.difference)}{limit})")
    parts += [f"{own.seeds} seeds"] if own.spread_counts else []
    parts += [own.reason] if own.reason else []
    others = ", ".join(f"{other.what} {other.recorded} recorded, {other.here} here" for other in own.origins)
    return f"{label}: {'; '.join([*parts, *([others] if others else [])])}"


def _summary(found: "Sequence[Reproduction]") -> str:
    """The last line: `3 of 3 cells agree: 2 to the last bit, 1 within the spread over seeds`."""
    from dmlbench.analysis.reproduction import Verdict

    counts = Counter(own.verdict for own in found)
    agree = sum(count for verdict, count in counts.items() if verdict.agrees)
    words = {
        Verdict.EQUAL: "to the last bit",
        Verdict.WITHIN: "within the spread over seeds",
        Verdict.DIFFERS: inflected(counts[Verdict.DIFFERS], "differs", "differ"),
        Verdict.FAILED: "failed",
        Verdict.NONE: inflected(counts[Verdict.NONE], "has no verdict", "have no verdict"),
        Verdict.UNFINISHED: inflected(counts[Verdict.UNFINISHED], "is not finished", "are not finished"),
    }
    told = ", ".join(f"{counts[verdict]} {said}" for verdict, said in words.items() if counts[verdict])
    return f"{agree} of {counted(len(found), 'cell')} {inflected(agree, 'agrees', 'agree')}: {told}"
