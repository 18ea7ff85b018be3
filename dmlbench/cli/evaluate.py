"""`dmlbench evaluate`."""

import inspect
import json
from pathlib import Path

import click

from dmlbench.cli.options import PATH, Command, data_dir_option
from dmlbench.cli.terminal import echo


@click.command("evaluate", cls=Command)
@click.argument("cell", type=PATH)
@click.option(
    "--dataset", help="Score on the test classes of this dataset, or of NAME=FOLDER [default: the cell's dataset]."
)
@data_dir_option()
@click.option("--skip-bad", is_flag=True, help="Leave out images of --dataset that cannot be read.")
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu or cuda.")
@click.option(
    "--embeddings",
    type=PATH,
    metavar="FILE",
    help="Write the test embeddings, with path and class of each image, to this new .safetensors file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(
    cell: Path,
    *,
    dataset: str | None,
    data_dir: Path | None,
    skip_bad: bool,
    device: str,
    embeddings: Path | None,
    as_json: bool,
) -> None:
    """Score the weights that `run --keep weights` saved in a cell's folder.

    Embeddings are written in the format of `run --keep embeddings`: a safetensors file with the tensors `embeddings`
    (N x D, float32) and `labels` (N), and the metadata `images`, a JSON list of N objects with `path` (relative to the
    dataset) and `class`. `dmlbench.read_embeddings(FILE)` reads it in Python. If the method trains several networks,
    the embeddings are the first network's.

    \b
    Examples:
      dmlbench evaluate results/runs/conv4-64/glyphs/ms/seed0-1a2b3c4d
      dmlbench evaluate results/runs/conv4-64/glyphs/ms/seed0-1a2b3c4d --dataset cub --embeddings cub.safetensors
    """
    from dmlbench.api.networks import evaluate_cell

    metrics = inspect.unwrap(evaluate_cell)(  # its errors name options here
        cell, dataset=dataset, data_dir=data_dir, skip_bad=skip_bad, device=device, embeddings=embeddings, log=_say
    )
    if as_json:
        click.echo(json.dumps(metrics, indent=1))
        return
    width = max(len(name) for name in metrics)
    for name, value in metrics.items():
        echo(f"{name:<{width}}  {value:.6g}")


def _say(line: str) -> None:
    echo(line, err=True)
