"""`dmlbench validate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import PATH, Command
from dmlbench.cli.terminal import echo

if TYPE_CHECKING:
    from dmlbench.specs.registry import Registry


@click.command("validate", cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILES", type=PATH)
def command(files: tuple[Path, ...]) -> int:
    """Check method files, or all of a folder: read each, build what it names, and take one training step.

    A modifier is tested on the base `ms`. Python plugins of these files are loaded and run.

    \b
    Examples:
      dmlbench validate my-methods/mine.yaml
      dmlbench validate my-methods
    """
    from dmlbench.errors import UserError

    wrong = 0
    chosen = [file for path in files for file in _files(path)]
    for file in chosen:
        try:
            echo(_validate(file))
        except UserError as error:
            if len(chosen) == 1:
                raise
            wrong += 1
            echo(f"error: {error}", err=True)
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
    from dmlbench.specs.method_loading import Folder, load_file
    from dmlbench.specs.registry import Registry

    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file}: not a method file", hint="give its YAML, which names a plugin beside it")
    content = load_file(file, Folder(file.parent, named_by_user=True))
    registry = Registry(file.parent)
    name = f"ms+{content.name}" if content.kind not in ("loss", "pinned") else content.name
    if name not in registry.names():
        raise UserError(f"{file}: {name}: needs a base that is not there", hint=f"bases: {', '.join(registry.names())}")
    loss, unrated = _step(registry, name)
    told = f"{file}: valid; a step of {name} gives loss {loss:.4f}"
    return f"{told}; learned at the network's rate, for learning_rates gives no other: {unrated}" if unrated else told


def _step(registry: "Registry", name: str) -> tuple[float, str]:
    """Loss of a training step, one in which a distillation, if any, has its full say; and what has no own rate."""
    import torch

    from dmlbench.data.loader import Batch
    from dmlbench.errors import UserError
    from dmlbench.models.model import build_model
    from dmlbench.specs.protocol import load_protocol
    from dmlbench.training.build import TrainingSet, at_networks_rate, build_trainer

    protocol = load_protocol("conv4-64", "glyphs")
    method = registry.resolve(name, "glyphs", protocol.name)
    torch.manual_seed(0)
    model = build_model(protocol.model, protocol.input)
    trainer = build_trainer(method, protocol, model, TrainingSet(classes=4, images=16), torch.device("cpu"))
    images = torch.rand(16, protocol.input.channels, protocol.input.size, protocol.input.size)
    others = tuple(torch.rand_like(images) for _ in range(trainer.views - 1))
    batch = Batch(images, torch.arange(16) // 4, torch.arange(16), others)
    mining = torch.Generator().manual_seed(0)
    try:
        losses = trainer.step(batch, 0, mining)
        if method.distillation:  # the teacher comes after the first epoch
            trainer.end_epoch()
            losses = trainer.step(batch, trainer.epochs - 1, mining)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"{name}: a training step failed ({type(error).__name__}: {error})") from error
    total = float(sum(losses))
    if not torch.isfinite(torch.tensor(total)):
        raise UserError(f"{name}: a training step gave the loss {total}")
    return total, ", ".join(at_networks_rate(trainer.networks[0].criterion, method.loss))
