"""`dmlbench data`."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import PATH, Command, data_dir_option
from dmlbench.cli.terminal import echo

if TYPE_CHECKING:
    from dmlbench.data.archives import Progress as ByteProgress
    from dmlbench.data.ready import Checked

LISTED = 20


@click.group("data")
def command() -> None:
    """Fetch, check or show a dataset: NAME (see `dmlbench list datasets`), NAME=FOLDER, NAME=FILE.csv, or a YAML file.

    \b
    Examples:
      dmlbench data fetch cub --data-dir data
      dmlbench data check birds=path/to/images
    """


@command.command("fetch", cls=Command)
@click.argument("name")
@data_dir_option()
def fetch(name: str, data_dir: Path | None) -> None:
    """Download a dataset into the data folder, verify and unpack it. A broken download is resumed.

    \b
    Examples:
      dmlbench data fetch cub
      dmlbench data fetch sop --data-dir data
    """
    fetch_dataset(name, "NAME", data_dir)


def fetch_dataset(name: str, where: str, data_dir: Path | None) -> None:
    """Download a dataset unless it is there; raises UserError where it has to be placed by hand."""
    from dmlbench.data.catalogue import dataset_info
    from dmlbench.data.family import Downloadable, cache_dir
    from dmlbench.errors import UserError

    info = dataset_info(name, where)
    folder = created(data_dir) or cache_dir()
    look = f"`dmlbench data check {name}{f' --data-dir {data_dir}' if data_dir else ''}` looks at every image"
    with suppress(UserError):
        info.family.read(folder, lambda _: None)
        echo(f"{info.name}: is there; {look}")
        return
    if not isinstance(info.family, Downloadable):
        info.family.read(folder, echo)  # its error says what to place where
        return
    with _bar() as progress:
        info.family.fetch(folder, echo, progress)
    info.family.read(folder, echo)
    echo(f"{info.name}: ready in {folder}; {look}")


@command.command("check", cls=Command)
@click.argument("name")
@data_dir_option()
def check(name: str, data_dir: Path | None) -> int:
    """Count classes and images, decode every image, find duplicates across the split, and print the fingerprint.

    The exit code is 1 if a run would refuse an image or a count, 2 if there is no dataset.

    \b
    Examples:
      dmlbench data check cub --data-dir data
      dmlbench data check birds=path/to/images
    """
    from dmlbench.data.catalogue import dataset_info
    from dmlbench.data.ready import check as look
    from dmlbench.runner.matrix import data_folder

    info = dataset_info(name, "NAME")
    found = look(info, data_folder(data_dir), echo)
    _print_counts(info.name, found)
    _print_list("cannot be used", found.bad, limit=None)
    _print_list("not RGB", found.converted, limit=LISTED)
    for groups, where in ((found.duplicates, "train and test"), (found.in_both_roles, "query and gallery")):
        same = {" = ".join(group): "" for group in groups}
        _print_list(f"with the same content in {where}", same, limit=LISTED)
    if found.lost_queries and found.roles:
        echo(f"{found.lost_queries:,} queries are of a class that the gallery does not have, and are left out")
    elif found.lost_queries:
        echo(f"{found.lost_queries:,} test classes have one image, which is no query: nothing can be retrieved for it")
    if found.problem:
        echo(f"the folder {found.problem}")
    if found.fingerprint:
        echo(f"fingerprint {found.fingerprint}")
    echo("sound: a run takes it as it is" if found.sound else "NOT sound: a run refuses it as it is")
    return 0 if found.sound else 1


@command.command("info", cls=Command)
@click.argument("name")
@data_dir_option()
@click.option(
    "--sheet", type=PATH, help="File for the contact sheet [default: NAME-contact-sheet.png in the working folder]."
)
def info(name: str, data_dir: Path | None, sheet: Path | None) -> None:
    """Show a dataset's counts, sizes and licence, and draw a contact sheet of random classes.

    \b
    Examples:
      dmlbench data info glyphs
      dmlbench data info cub --data-dir data --sheet cub.png
    """
    from rich.table import Table

    from dmlbench.data.catalogue import dataset_info
    from dmlbench.data.ready import sizes
    from dmlbench.reporting.pictures import check_sheet, draw_contact_sheet
    from dmlbench.runner.matrix import data_folder
    from dmlbench.runner.progress import plain_or_wide

    entry = dataset_info(name, "NAME")
    path = sheet or Path(f"{entry.name}-contact-sheet.png")
    check_sheet(path)
    sides = entry.family.read(data_folder(data_dir), echo)
    console = plain_or_wide()
    known = {"title": entry.title, "what": entry.description, "licence": entry.licence, "source": entry.source}
    known["images in reports"] = "shown" if entry.images_may_be_shown else "shown with --panels only"
    for key, value in known.items():
        if value:
            console.say(f"{key}: {value}")
    rows = sizes(sides, echo)
    table = Table("", *next(iter(rows.values())), box=None)
    for side, row in rows.items():
        table.add_row(side, *(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    console.print(table)
    console.print("a range is least - median - most; width and height in pixels")
    draw_contact_sheet(f"{entry.title}: random classes", sides, path)
    console.say(f"wrote {path}")


def created(data_dir: Path | None) -> Path | None:
    """The data folder; one that was named for a download is made."""
    from dmlbench.errors import UserError
    from dmlbench.runner.matrix import data_folder

    try:
        if data_dir is not None:
            data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--data-dir {data_dir}: cannot be made ({error.strerror})") from error
    return data_folder(data_dir)


def _print_counts(name: str, found: "Checked") -> None:
    from rich.table import Table

    from dmlbench.runner.progress import plain_or_wide

    table = Table(name, "classes", "images", *(["published", ""] if found.published else []), box=None)
    for index, side in enumerate(("train", "test")):
        classes, images = found.counts[index], found.counts[index + 2]
        row = [side, f"{classes:,}", f"{images:,}"]
        if found.published:
            wanted = found.published[index], found.published[index + 2]
            row += [f"{wanted[0]:,} / {wanted[1]:,}", "ok" if wanted == (classes, images) else "DIFFERENT"]
        table.add_row(*row)
    for index, role in enumerate(("query", "gallery") if found.roles else ()):
        images = found.roles[index] if found.roles else 0
        row = [f"- {role}", "", f"{images:,}"]
        if found.published:
            wanted_images = (found.published_queries, found.published[3] - found.published_queries)[index]
            row += [f"{wanted_images:,}", "ok" if wanted_images == images else "DIFFERENT"]
        table.add_row(*row)
    plain_or_wide().print(table)


def _print_list(what: str, found: dict[str, str], *, limit: int | None) -> None:
    echo(f"{len(found):,} images {what}{':' if found else ''}")
    for path, why in list(found.items())[:limit]:
        echo(f"  {path}{f': {why}' if why else ''}")
    if limit is not None and len(found) > limit:
        echo(f"  and {len(found) - limit:,} more")


@contextmanager
def _bar() -> Iterator["ByteProgress | None"]:
    """A progress bar in bytes on a terminal; None elsewhere, where lines go out instead."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from dmlbench.runner.progress import plain_or_wide

    console = plain_or_wide()
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("download", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total or None)
