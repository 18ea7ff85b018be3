"""A report's folder appears whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmlbench.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
PAGE = "index.html"


def check_target(output: Path, name: str) -> Path:
    """The report's folder; raises UserError for a name that is no plain name, or where something else lies there."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: not a plain name", hint="use up to 100 letters, digits, dots, dashes, +, _")
    target = output / name
    if target.exists() and not (target.is_dir() and ((target / PAGE).is_file() or not any(target.iterdir()))):
        raise UserError(f"{target}: exists and is not a report", hint="give another --name")
    return target


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a new folder that takes the target's place when the block ends well, and vanishes when it does not.

    Raises:
        UserError: where the folder cannot be written.
    """
    staged, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        yield staged
        if target.exists():
            target.replace(old)
        staged.replace(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.replace(target)
        raise UserError(f"{target}: cannot be written ({error.strerror})", hint="give another --output") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
