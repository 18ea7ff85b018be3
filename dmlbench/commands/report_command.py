"""`dmlbench report`."""

from pathlib import Path

import click

from dmlbench.commands.options import results_option


@click.command("report")
@results_option()
@click.option("--name", default="report", show_default=True, help="Folder below the output folder.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("reports"), show_default=True, help="Where reports go."
)
def command(results: Path, name: str, output: Path) -> None:
    """Render results as a self-contained page, Markdown, CSV and LaTeX tables, PNG and SVG figures.

    \b
    Examples:
      dmlbench report
      dmlbench report --results results/runs --name glyphs-first-look
    """
    from dmlbench.report.page import render

    folder = render(results, name, output)
    click.echo(f"{folder / 'index.html'}")
