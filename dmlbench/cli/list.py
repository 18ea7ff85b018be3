"""`dmlbench list`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import Command, methods_dir_option
from dmlbench.cli.terminal import echo

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from dmlbench.specs.method import AnyFile, MethodFile
    from dmlbench.specs.registry import Registry

Row = Mapping[str, str | bool]
LEGEND = "F: figures are published   P: a file of its own   .: composed of both files   blank: the base cannot take it"


@click.command("list", cls=Command)
@click.argument("what", type=click.Choice(["methods", "datasets", "protocols"]))
@methods_dir_option()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, a row for each, for scripts.")
def command(what: str, methods_dir: Path | None, as_json: bool) -> None:
    """List methods, datasets or protocols. Methods are a grid of bases and modifiers: a name is BASE or BASE+MODIFIER.

    \b
    Examples:
      dmlbench list methods
      dmlbench list methods --methods-dir my-methods
    """
    from dmlbench.runner.progress import plain_or_wide

    listed: Mapping[str, Callable[[], list[Row]]] = {
        "methods": lambda: _methods(methods_dir),
        "datasets": _datasets,
        "protocols": _protocols,
    }
    if as_json:
        click.echo(json.dumps(listed[what](), indent=1))
        return
    console = plain_or_wide()
    parts = _grid_and_titles(methods_dir, console.width) if what == "methods" else [_table(listed[what]())]
    for part in parts:
        console.print(part)
    if what == "protocols":
        console.print(f"their files: {Path(str(listed[what]()[0]['file'])).parent}", markup=False, soft_wrap=True)


def _table(rows: Sequence[Row]) -> "Table":
    from rich.table import Table

    columns = [name for name in rows[0] if name != "file"]
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns))
    return table


def _registry(methods_dir: Path | None) -> "Registry":
    from dmlbench.specs.registry import Registry

    registry = Registry(methods_dir)
    for problem in registry.problems():
        echo(f"not usable: {problem}", err=True)
    return registry


def _methods(methods_dir: Path | None) -> list[Row]:
    registry = _registry(methods_dir)
    files = registry.files()
    return [_method(name, files) for name in registry.names()]


def _method(name: str, files: "Mapping[str, AnyFile]") -> Row:
    base, _, modifier = name.partition("+")
    return {
        "name": name,
        "base": base,
        "modifier": modifier,
        "title": files[name].title if name in files else f"{files[base].title} + {files[modifier].title}",
        "own_file": name in files,
        "published_figures": _has_figures(name, files),
    }


def _has_figures(name: str, files: "Mapping[str, AnyFile]") -> bool:
    """Whether figures are published of a base alone, or of it with a modifier."""
    base, _, modifier = name.partition("+")
    own = files[name].published if name in files else ()
    of_modifier = files[modifier].published if modifier in files else ()  # a file of a composition may name no other
    return bool(own) or any(figure.base == base for figure in of_modifier)


def _grid_and_titles(methods_dir: Path | None, width: int) -> "list[RenderableType]":
    """The grid in parts as wide as the console, and what each name is."""
    from dmlbench.specs.method import MethodFile

    registry = _registry(methods_dir)
    files = registry.files()
    parts = [file for file in files.values() if isinstance(file, MethodFile)]
    bases, modifiers = (
        sorted((file for file in parts if (file.slot == "loss") == is_loss), key=_order) for is_loss in (True, False)
    )
    names = set(registry.names())
    grids = [_grid([own.name for own in bases], part, names, files) for part in _parts(bases, modifiers, width)]
    count = f"{len(names)} methods: a base alone, or BASE+MODIFIER, such as {_example(names)}"
    return [count, "", *grids, LEGEND, "", _titles("base", bases), "", _titles("modifier", modifiers)]


def _order(file: "MethodFile") -> tuple[float, str]:
    return (file.order or float("inf"), file.name)


def _example(names: set[str]) -> str:
    return next((name for name in ("ms+obdsd", *sorted(names)) if name in names and "+" in name), "ms+obdsd")


def _parts(
    bases: "Sequence[MethodFile]", modifiers: "Sequence[MethodFile]", width: int
) -> "Iterator[list[MethodFile | None]]":
    """Columns of grids that are no wider than a width; None is the base alone."""
    beside = max((len(own.name) for own in bases), default=0)
    columns: list[MethodFile | None] = [None]
    used = beside + len("  alone")
    for own in modifiers:
        wide = 2 + max(map(len, own.name.split("-")))
        if columns and used + wide > width:
            yield columns
            columns, used = [], beside
        columns, used = [*columns, own], used + wide
    yield columns


def _grid(
    bases: Sequence[str], columns: "Sequence[MethodFile | None]", names: set[str], files: "Mapping[str, AnyFile]"
) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for own in columns:
        table.add_column(own.name.replace("-", "-\n") if own else "alone", no_wrap=True, vertical="bottom")
    for base in bases:
        row = [f"{base}+{own.name}" if own else base for own in columns]
        table.add_row(base, *(_mark(name, files) if name in names else "" for name in row))
    return table


def _mark(name: str, files: "Mapping[str, AnyFile]") -> str:
    pinned = "+" in name and name in files
    return ("F" if _has_figures(name, files) else "") + ("P" if pinned else "") or "."


def _titles(kind: str, parts: "Sequence[MethodFile]") -> "Table":
    from rich.table import Table

    table = Table(kind, "title", "from", box=None, pad_edge=False)
    for own in parts:
        table.add_row(own.name, own.title, f"{own.paper.authors}, {own.paper.venue}" if own.paper else "no paper")
    return table


def _datasets() -> list[Row]:
    from dmlbench.data.catalogue import DATASETS
    from dmlbench.data.folder import DEFAULT_PROTOCOL

    columns = ("name", "title", "training classes / images", "test classes / images", "protocol")
    known = [
        (
            info.name,
            info.title,
            f"{info.train_classes:,} / {info.train_images:,}",
            f"{info.test_classes:,} / {info.test_images:,}"
            + (f" ({info.query_images:,} queries)" if info.query_images else ""),
            info.default_protocol,
        )
        for info in DATASETS.values()
    ]
    own = [
        ("NAME=FOLDER", "Your own: a folder for each class", "half of the classes", "the rest", DEFAULT_PROTOCOL),
        ("", "Or train/, test/; or train/, query/, gallery/, with such folders", "", "", ""),
        ("NAME=FILE.csv", "Your own: path, label and split of each image", "as listed", "", DEFAULT_PROTOCOL),
    ]
    return [dict(zip(columns, row, strict=True)) for row in (*known, *own)]


def _protocols() -> list[Row]:
    from dmlbench.specs.protocol import ProtocolFile, own_protocols
    from dmlbench.specs.yaml_files import read_yaml, validate

    rows: list[Row] = []
    for name, path in own_protocols().items():
        protocol = validate(ProtocolFile, read_yaml(path), str(path))
        special = {dataset: over.get("training", {}).get("epochs") for dataset, over in protocol.datasets.items()}
        epochs = [str(protocol.training.epochs), *(f"{dataset} {own}" for dataset, own in special.items() if own)]
        rows.append({"name": name, "title": protocol.title, "epochs": ", ".join(epochs), "file": str(path)})
    return rows
