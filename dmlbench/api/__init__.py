"""The Python API behind `import dmlbench`: the command line is a thin layer on it."""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from dmlbench.errors import UserError

# The most that a run can be asked for: above, a mistyped number would take minutes or all memory before it fails.
MOST_SEED = 2**63 - 1
MOST_SEEDS = 10_000
MOST_PROCESSES = 1_000
OPTION = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)")
ARGUMENTS = {
    "set": "settings",
    "seed": "seeds",
    "output": "folder",
    "name": "folder",
}  # that are not named as the option

Taken = ParamSpec("Taken")
Given = TypeVar("Given")


def naming_arguments(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """Let a function's errors say `data_dir` where they say `--data-dir`, except in `commands`, which are typed."""

    def argument(found: re.Match[str]) -> str:
        return ARGUMENTS.get(found[1], found[1].replace("-", "_"))

    @wraps(function)
    def call(*args: Taken.args, **kwargs: Taken.kwargs) -> Given:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            parts = str(error).split("`")  # every second one is a command
            error.args = (
                "`".join(part if index % 2 else OPTION.sub(argument, part) for index, part in enumerate(parts)),
            )
            raise

    return call
