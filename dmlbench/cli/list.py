"""`dmlbench list`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import Command, methods_dir_option
from dmlbench.cli.terminal import echo

if TYPE_CHECKING:
    from rich.table import Table


@click.command("list", cls=Command)
@click.argument("what", type=click.Choice(["methods", "datasets", "protocols"]))
@methods_dir_option()
def command(what: str, methods_dir: Path | None) -> None:
    """List methods, datasets or protocols.

    \b
    Examples:
      dmlbench list methods
      dmlbench list methods --methods-dir my-methods
    """
    from dmlbench.runner.progress import plain_or_wide

    tables = {"methods": lambda: _methods(methods_dir), "datasets": _datasets, "protocols": _protocols}
    plain_or_wide().print(tables[what]())


def _methods(methods_dir: Path | None) -> "Table":
    from rich.table import Table

    from dmlbench.specs.registry import Registry

    registry = Registry(methods_dir)
    titles = {name: file.title for name, file in registry.files().items()}
    table = Table("name", "title", box=None)
    for name in registry.names():
        parts = [
            titles[part].replace(" loss", "") if index else titles[part] for index, part in enumerate(name.split("+"))
        ]
        table.add_row(name, titles.get(name, " + ".join(parts)))
    for problem in registry.problems():
        echo(f"not usable: {problem}", err=True)
    return table


def _datasets() -> "Table":
    from rich.table import Table

    from dmlbench.data.catalogue import DATASETS
    from dmlbench.data.folder import DEFAULT_PROTOCOL

    table = Table("name", "title", "training classes / images", "test classes / images", "protocol", box=None)
    for info in DATASETS.values():
        train, test = f"{info.train_classes:,} / {info.train_images:,}", f"{info.test_classes:,} / {info.test_images:,}"
        queries = f" ({info.query_images:,} queries)" if info.query_images else ""
        table.add_row(info.name, info.title, train, test + queries, info.default_protocol)
    table.add_row(
        "NAME=FOLDER", "Your own: a folder for each class", "half of the classes", "the rest", DEFAULT_PROTOCOL
    )
    table.add_row("", "Or train/, test/; or train/, query/, gallery/, with such folders", "", "", "")
    table.add_row("NAME=FILE.csv", "Your own: path, label and split of each image", "as listed", "", DEFAULT_PROTOCOL)
    return table


def _protocols() -> "Table":
    from rich.table import Table

    from dmlbench.specs.protocol import ProtocolFile, own_protocols
    from dmlbench.specs.yaml_files import read_yaml, validate

    table = Table("name", "title", "epochs", "file", box=None)
    for name, path in own_protocols().items():
        protocol = validate(ProtocolFile, read_yaml(path), str(path))
        special = {dataset: over.get("training", {}).get("epochs") for dataset, over in protocol.datasets.items()}
        epochs = [str(protocol.training.epochs), *(f"{dataset} {own}" for dataset, own in special.items() if own)]
        table.add_row(name, protocol.title, ", ".join(epochs), str(path))
    return table
