"""`dmlbench validate`."""

from pathlib import Path

import click

from dmlbench.cli.options import PATH, Command
from dmlbench.cli.terminal import echo


@click.command("validate", cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILES", type=PATH)
def command(files: tuple[Path, ...]) -> int:
    """Check method files, or all of a folder: read each, build what it names, and train it for a few steps.

    Values must be within their `search`, since the first trial of `dmlbench tune` takes them.

    Each is trained for two epochs of two steps, with its state saved and restored between the epochs. A modifier is
    tested on the base `ms`, a miner on `triplet`. Python plugins of these files are loaded and run.

    \b
    Examples:
      dmlbench validate my-methods/mine.yaml
      dmlbench validate my-methods
    """
    from dmlbench.errors import UserError

    wrong = 0
    for file in [file for path in files for file in _files(path)]:
        try:
            echo(_validate(file))
        except UserError as error:
            wrong += 1
            where = "" if str(error).startswith(str(file)) else f"{file}: "
            echo(f"error: {where}{error}", err=True)
    return 2 if wrong else 0


def _files(path: Path) -> list[Path]:
    """The path, or the method files of a folder."""
    from dmlbench.errors import UserError

    if not path.is_dir():
        return [path]
    found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    if not found:
        raise UserError(f"{path}: a folder without method files", hint="name one that holds a method's YAML, or a file")
    return found


def _validate(file: Path) -> str:
    from dmlbench.errors import UserError
    from dmlbench.specs.method_loading import Folder, check_within_searches, load_file
    from dmlbench.specs.protocol import load_protocol
    from dmlbench.specs.registry import REPLACED, Registry
    from dmlbench.training.check import check_method

    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file}: not a method file", hint="give its YAML, which names a plugin beside it")
    content = load_file(file, Folder(file.parent, named_by_user=True))
    check_within_searches(content, str(file))
    registry = Registry(file.parent)
    bases = {"loss": "", "pinned": "", "miner": "triplet+"}
    name = f"{bases.get(content.kind, 'ms+')}{content.name}"
    if name not in registry.names():
        raise UserError(f"{file}: {name}: needs a base that is not there", hint=f"bases: {', '.join(registry.names())}")
    protocol = load_protocol("conv4-64", "glyphs")
    method = registry.resolve(name, "glyphs", protocol.name)
    loss, unrated = check_method(method, protocol)
    said = f"{file}: valid; a step of {name} gives loss {loss:.4f}"
    said += "".join(f"; {mark}" for mark in method.marks if mark.startswith(REPLACED.partition("{")[0]))
    rates = f"; learned at the network's rate, for learning_rates gives no other: {', '.join(unrated)}"
    return said + rates if unrated else said
