"""What all commands have in common: how options are read, and those that several share."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dmlbench.api import MOST_PROCESSES
from dmlbench.errors import UserError

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # name of a folder that may be a dataset's
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Command(click.Command):
    """A command whose options are given once, unless they are repeatable, and never empty."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; raises click's UsageError."""
        given, left, order = self.make_parser(ctx).parse_args(list(args))
        for parameter in [] if ctx.resilient_parsing else self.get_params(ctx):
            values = given.get(parameter.name or "")
            if any(value == "" for value in (values if isinstance(values, list | tuple) else [values])):
                raise click.UsageError(f"{_label(parameter)}: is empty", ctx)
            once = isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_eager)
            if once and (times := order.count(parameter)) > 1:
                raise click.UsageError(f"{_label(parameter)}: is given {times} times, and takes one value", ctx)
        study = given.get("study")  # the argument of `run`: any other word is a value with a blank in it
        left = [study, *left] if isinstance(study, str) and not study.endswith((".yaml", ".yml")) else left
        if left and not ctx.resilient_parsing:
            self._check_left(ctx, args, left)
        return super().parse_args(ctx, args)

    def _check_left(self, ctx: click.Context, args: list[str], left: list[str]) -> None:
        """Raise UsageError for words behind an option's value, with what was meant: `--methods a,b` for `a b`."""
        option, *words = args[max(0, args.index(left[0]) - 2) :][: 2 + len(left)]
        found = next((own for own in self.get_params(ctx) if option in own.opts), None)
        if found is None or words[1:] != left:
            return
        meant = (
            f"{option} {','.join(word.strip(',') for word in words)}"
            if found.callback in (names, _datasets) or found.name == "only"
            else ""
        )
        meant = f"{option} {'='.join(words)}" if found.callback is _whole_keys else meant
        meant = _seeds(ctx, words) if option in ("--seed", "--seeds") else meant
        if meant:
            raise click.UsageError(f"{option} {' '.join(words)}: no blanks in a value; {meant}", ctx)


def _seeds(ctx: click.Context | None, numbers: list[str]) -> str:
    """How some seeds are named: each by `--seed`, where a command has that."""
    single = ctx is not None and any("--seed" in own.opts for own in ctx.command.params)
    return " ".join(f"--seed {number}" for number in numbers) if single else f"--seeds {len(numbers)}"


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """The number; raises click's UsageError, which says what to type in place of a list of seeds."""
        numbers = [number.strip() for number in value.split(",")] if isinstance(value, str) else []
        if len(numbers) > 1 and param is not None and _label(param) in ("--seed", "--seeds"):
            said = f"{_label(param)} {value}: --seeds is how many, from 0; {_seeds(ctx, numbers)}"
            raise click.UsageError(said, ctx)
        return super().convert(value, param, ctx)


class UserPath(click.Path):
    """A path that a file system can hold: a name of a page is a mistake, and no accident of the system's."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """The path, with `~`; raises UserError."""
        from dmlbench.specs.yaml_files import path_of

        return super().convert(path_of(value, _label(param) if param else "path"), param, ctx)


PATH = UserPath()


def _label(parameter: click.Parameter) -> str:
    return parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name


def names(_: click.Context, parameter: click.Parameter, value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Split a comma-separated option, given once or more; an empty name or one given twice is an error."""
    if not value:
        return ()
    value = ",".join(value) if isinstance(value, tuple) else value
    parts = [part.strip() for part in value.split(",")]
    label = parameter.opts[0]
    if not all(parts):
        raise UserError(f"{label} {value!r}: has an empty name", hint=f"for example {label} a,b")
    twice = [part for index, part in enumerate(parts) if part in parts[:index]]
    if twice:
        raise UserError(f"{label}: {twice[0]!r} is given twice")
    if label == "--methods" and (blank := next((part for part in parts if " " in part), None)):
        raise UserError(f"{label} {blank!r}: commas go between names", hint=f"{label} {','.join(blank.split())}")
    return tuple(parts)


def _datasets(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """As `names`; a path is a folder of images without its name."""
    found = names(context, parameter, value)
    for path in [part for part in found if "/" in part and "=" not in part and not part.endswith((".yaml", ".yml"))]:
        there = "a folder of images needs a name" if Path(path).is_dir() else "no such folder or dataset"
        named = Path(path).name if PLAIN.fullmatch(Path(path).name) else "NAME"
        hint = f"{parameter.opts[0]} {shlex.quote(f'{named}={path}')}, with a folder for each class in it"
        raise UserError(f"{parameter.opts[0]} {path}: {there}", hint=hint)
    return found


def methods_option(
    help_text: str = "Comma-separated methods, e.g. ms,ms+obdsd.", *, required: bool = True
) -> Decorator:
    """`--methods A,B+C`."""
    return click.option("--methods", required=required, multiple=True, callback=names, help=help_text)


DATASETS = "Comma-separated: dataset names, NAME=FOLDER of images, NAME=FILE.csv, or YAML files."


def datasets_option(help_text: str = DATASETS, *, required: bool = True) -> Decorator:
    """`--datasets X,NAME=FOLDER`."""
    return click.option("--datasets", required=required, multiple=True, callback=_datasets, help=help_text)


def only_option(help_text: str) -> Decorator:
    """`--only COLUMN=NAMES`."""
    return click.option(
        "--only",
        multiple=True,
        metavar="COLUMN=NAMES",
        callback=lambda _context, _parameter, given: pairs(given, "--only COLUMN=NAMES", "method=ms,ms+psd"),
        help=help_text,
    )


def pairs(given: tuple[str, ...], usage: str, example: str) -> dict[str, tuple[str, ...]]:
    """`COLUMN=NAMES` several times, as names by column; `usage` is the option with the form of its value."""
    option, form = usage.split()
    found: dict[str, tuple[str, ...]] = {}
    for pair in given:
        column, equals, text = pair.partition("=")
        names = tuple(name.strip() for name in text.split(","))
        if not equals or not all(names):
            raise UserError(f"{option} {pair!r}: must be {form}", hint=f"for example {option} {example}")
        found[column] = found.get(column, ()) + names
    return found


def against_option() -> Decorator:
    """`--against METHOD`."""
    help_text = (
        "Compare all methods with this one, by its name in tables, e.g. ms or ms{alpha=3} [default: a modified method "
        "with its base, a base with the first base: of --methods in `run`, else of `dmlbench list methods`]."
    )
    return click.option("--against", metavar="METHOD", default="", help=help_text)


def claim_option(help_text: str) -> Decorator:
    """`--claim MODIFIER:BASES`."""
    return click.option("--claim", "claims", multiple=True, metavar="MODIFIER:BASES", help=help_text)


def workers_option() -> Decorator:
    """`--workers N`."""
    most = "the cores divided by the protocol's threads, which is the most; on GPUs --per-gpu for each"
    return click.option(
        "--workers", type=Whole(1, MOST_PROCESSES), help=f"Cells trained at the same time [default: {most}]."
    )


def per_gpu_option() -> Decorator:
    """`--per-gpu K`."""
    help_text = "Cells trained at the same time on one GPU."
    return click.option("--per-gpu", type=Whole(1, MOST_PROCESSES), default=1, show_default=True, help=help_text)


def gpus_per_cell_option() -> Decorator:
    """`--gpus-per-cell N`."""
    help_text = "GPUs that train one cell together, each a part of every batch, with the gradient of the whole batch."
    return click.option("--gpus-per-cell", type=Whole(1, MOST_PROCESSES), default=1, show_default=True, help=help_text)


def skip_bad_option() -> Decorator:
    """`--skip-bad`."""
    help_text = "Leave out images that cannot be read; this is part of the data's version."
    return click.option("--skip-bad", is_flag=True, help=help_text)


def results_option(help_text: str = "Folder for results.") -> Decorator:
    """`--results DIR`."""
    return click.option("--results", type=PATH, default=Path("results/runs"), show_default=True, help=help_text)


def results_folders_option() -> Decorator:
    """`--results DIR`, repeatable."""
    help_text = "Folder with results. Repeatable."
    default = (Path("results/runs"),)
    return click.option("--results", type=PATH, multiple=True, default=default, show_default=True, help=help_text)


def data_dir_option() -> Decorator:
    """`--data-dir DIR`."""
    help_text = "Folder with the datasets [default: $DMLBENCH_DATA, else the user's cache folder]."
    return click.option("--data-dir", type=PATH, help=help_text)


METHODS_DIR = "Folder with your own method files, searched first. Python plugins are loaded only from here."


def methods_dir_option(help_text: str = METHODS_DIR) -> Decorator:
    """`--methods-dir DIR`."""
    return click.option("--methods-dir", type=PATH, help=help_text)


def protocol_option() -> Decorator:
    """`--protocol NAME|FILE`."""
    help_text = "Name or YAML file of a protocol [default: the dataset's]."
    return click.option("--protocol", help=help_text)


SET = (
    "Override a value of the protocol (sections model, input, training, evaluation, validation), of the base (loss) or "
    "of the modifier, e.g. training.epochs=3 or modifier.lambda=10. It applies to all methods that have the value. "
    "Repeatable."
)


def _whole_keys(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> tuple[str, ...]:
    if not pairs:
        return ()
    from dmlbench.specs.protocol import whole_key

    return tuple(map(whole_key, pairs))


def set_option(help_text: str = SET) -> Decorator:
    """`--set key.path=value`."""
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=help_text, callback=_whole_keys)


def vary_option() -> Decorator:
    """`--vary SOURCE`."""
    help_text = (
        "Let seeds decide one thing alone: the initial weights (init), batches, augmentations and mining (order), or "
        "which classes train and which test (split). All else is as in seed 0. Same as --set training.vary=..."
    )
    return click.option("--vary", type=click.Choice(["init", "order", "split"]), help=help_text)


def tuned_option() -> Decorator:
    """`--tuned [FILE]`."""
    help_text = "Use the values that `dmlbench tune` found [default FILE: tuning/tuned.yaml in the results folder]."
    return click.option("--tuned", is_flag=False, flag_value=".", type=PATH, metavar="[FILE]", help=help_text)


def device_option() -> Decorator:
    """`--device NAME`."""
    return click.option("--device", default="auto", show_default=True, help="Device: auto, cpu or cuda.")
