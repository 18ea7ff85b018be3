"""`dmlbench report`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import (
    PATH,
    Command,
    against_option,
    claim_option,
    data_dir_option,
    only_option,
    pairs,
    results_folders_option,
)
from dmlbench.cli.terminal import echo
from dmlbench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from dmlbench.reporting.queries import Panels

MOST_WORKERS = 4  # a report has not more to draw at a time than would pay for their start


@click.command("report", cls=Command)
@results_folders_option()
@click.option("--name", default="report", show_default=True, help="Name of the report, and of its folder.")
@click.option("--output", type=PATH, default=Path("reports"), show_default=True, help="Folder for reports.")
@only_option("Show only some: COLUMN is protocol, dataset or method, e.g. method=ms,ms+psd. Repeatable.")
@against_option()
@claim_option("Test also this claim, which is then after the fact, e.g. psd:contrastive,triplet. Repeatable.")
@click.option(
    "--panels/--no-panels",
    default=None,
    help="Show test images, or none: what methods retrieve, and classes that gain, lose or are confused, of cells run "
    "with --keep embeddings [default: images whose licence lets anyone show them, where they are there].",
)
@data_dir_option()
@click.option(
    "--tables",
    multiple=True,
    metavar="WHAT=NAMES",
    callback=lambda _context, _parameter, given: _tables(given),
    help="Show only some in LaTeX tables: WHAT is rows (methods) or metrics, e.g. metrics=recall_at_1. Repeatable.",
)
@click.option(
    "--tracking",
    type=click.Choice(["auto", "none"]),
    default="none",
    show_default=True,
    help="Log the report to MLflow, too (auto): one run in each experiment it covers.",
)
def command(
    *,
    results: tuple[Path, ...],
    name: str,
    output: Path,
    only: dict[str, tuple[str, ...]],
    panels: bool | None,
    data_dir: Path | None,
    tracking: str,
    against: str,
    claims: tuple[str, ...],
    tables: dict[str, tuple[str, ...]],
) -> int:
    """Render results as a self-contained page, Markdown, CSV and LaTeX tables, PNG and SVG figures.

    The leaderboard comes first, then declared claims and all comparisons with their verdicts; then tables, figures and
    sources.

    Several --results are read as one: a cell counts once, and cells that contradict each other are named.

    An existing report of this name is replaced, unless a file in its folder was added or changed by hand. Results that
    cannot be read are named and left out; the exit code is then 1.

    \b
    Examples:
      dmlbench report --name cub --only dataset=cub --against ms --claim psd:contrastive,triplet
      dmlbench report --name paper --tables rows=ms,ms+psd --tables metrics=recall_at_1,map_at_r
    """
    from dmlbench.errors import Damaged
    from dmlbench.machine import usable_cores
    from dmlbench.reporting.latex import Choice
    from dmlbench.reporting.page import render
    from dmlbench.specs.study import parse_claim

    shown = _panels(panels, data_dir, tracking)
    left_out: list[Damaged] = []

    def leave_out(found: Damaged) -> None:
        left_out.append(found)
        _tell(f"left out: {found.reason}")

    workers = min(usable_cores(), MOST_WORKERS)
    folder = render(
        results, name, output, only, panels=shown, tell=_tell, damaged=leave_out, workers=workers, against=against,
        claims=[parse_claim(claim) for claim in claims], tables=Choice(**tables),
    )  # fmt: skip
    echo(f"{folder / 'index.html'}")
    if tracking == "auto":
        _send(folder)
    return 1 if left_out else 0


def _panels(choice: bool | None, data_dir: Path | None, tracking: str) -> "Panels | None":
    from dmlbench.reporting.queries import Panels

    if choice and tracking == "auto":
        what = "--panels: MLflow is sent no images whose licence does not let anyone show them"
        raise UserError(
            what, hint="leave out --panels (images that anyone may show are shown unasked) or --tracking auto"
        )
    return Panels.of(choice, data_dir)


def _tell(line: str) -> None:
    echo(line, err=True)


def _send(folder: Path) -> None:
    from dmlbench.tracking import TrackingError, connect, send_report

    refused: list[str] = []

    def warn(name: str, error: TrackingError) -> None:
        refused.append(name)
        echo(f"warning: MLflow: {error.brief}; the report was not sent to {name}", err=True)

    try:
        sent = send_report(connect(_tell), folder, warn)
    except TrackingError as error:  # the report is there all the same
        echo(f"warning: MLflow: {error.brief}; the report was not sent", err=True)
        return
    if sent or not refused:
        where = (
            ", ".join(sent) or "nowhere, for its results are not there: run `dmlbench sync`, then this command again"
        )
        echo(f"MLflow: run `report {folder.name}` in {where}")


def _tables(given: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found = pairs(given, "--tables WHAT=NAMES", "rows=ms,ms+psd")
    if unknown := sorted(set(found) - {"rows", "metrics"}):
        raise unknown_name("choice", unknown[0], ("metrics", "rows"), where="--tables")
    return found
