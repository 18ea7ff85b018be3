"""`dmlbench evaluate`."""

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from dmlbench.cli.options import PATH, Command, data_dir_option
from dmlbench.cli.terminal import echo
from dmlbench.errors import UserError

Metrics = dict[str, float]
USAGE = "name a cell's folder, or --embeddings FILE, or --model NAME with --datasets"


@click.command("evaluate", cls=Command)
@click.argument("cell", type=PATH, required=False)
@click.option(
    "--dataset",
    "--datasets",
    "dataset",
    help="Score on the test classes of this dataset, NAME=FOLDER or NAME=FILE.csv [default: the cell's dataset]. "
    "With --model several, comma-separated.",
)
@data_dir_option()
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Leave out images of --dataset that cannot be used; with --embeddings they are without these.",
)
@click.option("--device", help="Device of a network: auto, cpu or cuda [default: auto].")
@click.option(
    "--embeddings",
    type=PATH,
    metavar="FILE",
    help="With CELL: write the test embeddings, with path and class of each image, to this new .safetensors file. "
    "Without: score the embeddings of this .npz, .npy or .safetensors file.",
)
@click.option(
    "--labels",
    type=PATH,
    metavar="FILE",
    help="Labels of --embeddings, a .npy, .csv or .txt file [default: the array `labels` in the same file].",
)
@click.option("--ks", help="For which K recall@K of --embeddings is measured, comma-separated [default: 1,2,4,8].")
@click.option("--model", help="Score a network as it is: conv4, timm:NAME or torchvision:NAME.")
@click.option("--weights", help="Weights of --model: pretrained, or a .safetensors or .pth file [default: random].")
@click.option("--protocol", help="Protocol of --model's images and of the table of --results [default: the dataset's].")
@click.option("--results", type=PATH, help="Write the result to this results folder: a row of a report's leaderboard.")
@click.option("--name", help="Name of the row.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(*, as_json: bool, cell: Path | None, **options: Any) -> None:  # noqa: ANN401 - of all three ways
    """Score saved weights, embeddings of your own, or a network that is not trained here.

    CELL is the folder of a cell whose weights `run --keep weights` saved. Embeddings are written in the format of
    `run --keep embeddings`: a safetensors file with the tensors `embeddings` (N x D, float32) and `labels` (N), for
    queries and a gallery `queries` (N, bool), and the metadata `images`, a JSON list of N objects with `path` (relative
    to the dataset) and `class`. `dmlbench.read_embeddings(FILE)` reads it in Python. If the method trains several
    networks, the embeddings are the first network's.

    Your own embeddings (float32 or float64) are arrays of the same names, or their labels are in a file: a label a
    line, or a CSV with the column `label`, and `split` (query or gallery) where queries search a gallery.

    A network (`--model timm:resnet50 --weights pretrained --datasets cub,cars`) has no head: its pooled features are
    scaled to unit length, for images as the protocol evaluates them. All datasets are checked before the first is
    scored; of one that --results has already the metrics are printed, and not measured again.

    --results writes a row of the leaderboard that is marked as not trained here. It has no seeds, so neither interval
    nor verdict.

    \b
    Examples:
      dmlbench evaluate results/runs/conv4-64/glyphs/ms/seed0-1a2b3c4d --dataset cub --embeddings cub.safetensors
      dmlbench evaluate --embeddings mine.npz --labels labels.csv --dataset cub --results results/runs --name mine
    """
    scored: dict[str, Metrics] = {}
    jobs = _jobs(cell, options)
    for title, score in jobs.items():
        scored[title] = score()
        if not as_json:
            _show(title if len(jobs) > 1 else "", scored[title])
    if as_json:
        click.echo(json.dumps(scored if len(scored) > 1 else next(iter(scored.values())), indent=1))


def _show(title: str, metrics: Metrics) -> None:
    if title:
        echo(title)
    width = max(len(name) for name in metrics)
    for name, value in metrics.items():
        echo(f"{name:<{width}}  {value:.6g}")


def _jobs(cell: Path | None, options: dict[str, Any]) -> dict[str, Callable[[], Metrics]]:
    """What gives the metrics, by dataset: one, but for networks. Everything is checked before the first is scored."""
    given = {key for key, value in options.items() if value not in (None, False)}
    if options["model"]:
        _refuse(given & {"embeddings", "labels", "ks"} | ({"CELL"} if cell else set()), "--model")
        return _of_network(options)
    if cell:
        _refuse(given & {"labels", "ks", "weights", "protocol", "results", "name"}, "CELL")
        return {str(options["dataset"] or cell): partial(_of_cell, cell, options)}
    if options["embeddings"]:
        _refuse(given & {"device", "weights"}, "--embeddings without CELL")
        return {str(options["dataset"]): partial(_of_file, options)}
    raise UserError("nothing to score", hint=USAGE)


def _refuse(found: set[str], beside: str) -> None:
    """Raise UserError for what has no meaning there."""
    if found:
        name = min(found)
        said = name if name == "CELL" else f"--{name.replace('_', '-')}"
        raise UserError(f"{said}: cannot be combined with {beside}", hint=USAGE)


def _of_cell(cell: Path, options: dict[str, Any]) -> Metrics:
    from dmlbench.api.networks import evaluate_cell

    wanted = {key: options[key] for key in ("dataset", "data_dir", "skip_bad", "embeddings")}
    device = options["device"] or "auto"
    found: Metrics = inspect.unwrap(evaluate_cell)(
        cell, **wanted, device=device, log=_say
    )  # its errors name options here
    return found


def _of_file(options: dict[str, Any]) -> Metrics:
    from dmlbench.api.untrained import evaluate_file

    wanted = {key: options[key] for key in ("dataset", "protocol", "data_dir", "skip_bad", "results", "name")}
    score, ks = inspect.unwrap(evaluate_file), _ks(options["ks"])
    found: Metrics = score(options["embeddings"], options["labels"], ks=ks, **wanted)
    return found


def _of_network(options: dict[str, Any]) -> dict[str, Callable[[], Metrics]]:
    from dmlbench.api.untrained import plan_network, score_network

    datasets = [name.strip() for name in (options["dataset"] or "").split(",") if name.strip()]
    if not datasets:
        raise UserError("--model: needs --datasets", hint="for example --datasets cub,cars")
    names = [name.partition("=")[0] for name in datasets]
    if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
        raise UserError(f"--datasets: {twice!r} is given twice")
    wanted = {key: options[key] for key in ("weights", "protocol", "data_dir", "skip_bad", "results", "name")}
    device = options["device"] or "auto"
    plans = {name: plan_network(options["model"], name, device=device, log=_say, **wanted) for name in datasets}
    return {name: partial(score_network, planned, _say) for name, planned in plans.items()}


def _ks(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 10**6 for part in parts):
        raise UserError(f"--ks {text!r}: must be whole numbers from 1, comma-separated", hint="for example 1,10,100")
    return [int(part) for part in parts]


def _say(line: str) -> None:
    echo(line, err=True)
