"""`dmlbench evaluate`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmlbench.cli.options import PATH, Command, data_dir_option
from dmlbench.cli.terminal import echo

if TYPE_CHECKING:
    from dmlbench.models.model import EmbeddingModel
    from dmlbench.training.evaluator import Evaluator


@click.command("evaluate", cls=Command)
@click.argument("cell", type=PATH)
@click.option("--dataset", help="Score on this dataset's (or NAME=FOLDER's) test classes [default: the cell's].")
@data_dir_option()
@click.option("--skip-bad", is_flag=True, help="Leave out images of --dataset that cannot be used.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--embeddings",
    type=PATH,
    metavar="FILE",
    help="Write the test embeddings, with each image's path and class, to this .safetensors file; never over one.",
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
    """Score the weights that `run --keep weights` left in a cell's folder.

    Embeddings are written as `run --keep embeddings` writes them: safetensors with the tensors `embeddings` (N x D,
    float32) and `labels` (N), and the metadata `images`, a JSON list of N objects with `path` (relative to the dataset)
    and `class`. In Python `dmlbench.read_embeddings(FILE)` reads them; of several networks they are the first's.

    \b
    Examples:
      dmlbench evaluate results/runs/conv4-64/glyphs/ms/seed0-1a2b3c4d
      dmlbench evaluate results/runs/conv4-64/glyphs/ms/seed0-1a2b3c4d --dataset cub --embeddings cub.safetensors
    """
    if embeddings:
        _check_new(embeddings)
    metrics = _evaluate(cell, dataset, data_dir, device, embeddings, skip_bad=skip_bad)
    if as_json:
        click.echo(json.dumps(metrics, indent=1))
        return
    width = max(len(name) for name in metrics)
    for name, value in metrics.items():
        echo(f"{name:<{width}}  {value:.6g}")


def _evaluate(
    folder: Path, dataset: str | None, data_dir: Path | None, device: str, embeddings: Path | None, *, skip_bad: bool
) -> dict[str, float]:
    from dmlbench.errors import UserError
    from dmlbench.results.store import read_spec, read_summary
    from dmlbench.runner.matrix import data_folder

    if not (folder / "spec.yaml").is_file():
        hint = "name one such as results/runs/PROTOCOL/DATASET/METHOD/seed0-1234abcd; see `dmlbench status`"
        raise UserError(f"{folder}: not a cell's folder", hint=hint)
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such file",
            hint="run the cell with --keep weights; a finished one needs another --results",
        )
    cell = read_spec(folder)
    import torch

    from dmlbench.data.catalogue import dataset_info
    from dmlbench.data.images import load_dataset
    from dmlbench.data.ready import dataset_spec, prepare
    from dmlbench.models.model import build_model, load_networks
    from dmlbench.training.device import prepare as prepare_process
    from dmlbench.training.device import resolve_device
    from dmlbench.training.evaluator import Evaluator

    given = data_folder(data_dir)
    spec = dataset_spec(dataset_info(dataset, "--dataset"), given, _say, skip_bad=skip_bad) if dataset else cell.dataset
    prepare(spec, given, _say)
    where = resolve_device(device)
    prepare_process(cell.protocol.training, where)
    torch.manual_seed(0)
    untrained = cell.protocol.model.model_copy(update={"weights": None, "weights_sha256": None})
    networks = load_networks(lambda: build_model(untrained, cell.protocol.input).to(where), weights)
    summary = read_summary(folder)
    classes = summary.dataset.train_classes or None if summary and summary.dataset else None
    test = load_dataset(spec, given, _say).test
    evaluator = Evaluator(test, cell.protocol, cell.seed, where, training_classes=classes)
    return _score(evaluator, networks, weights, embeddings)


def _score(
    evaluator: "Evaluator", networks: "list[EmbeddingModel]", weights: Path, embeddings: Path | None
) -> dict[str, float]:
    from dmlbench.errors import DivergedError, UserError

    try:
        metrics = evaluator.measure(networks, clustering=True)
        if embeddings:
            _write_new(embeddings, evaluator.embeddings_file(networks[0]))
    except DivergedError as error:
        raise UserError(f"{weights}: {error}", hint="its training diverged") from error
    return metrics


def _check_new(path: Path) -> None:
    """Raise UserError before the work where a file cannot be written afterwards."""
    from dmlbench.errors import UserError

    if path.suffix != ".safetensors" or not path.parent.is_dir():
        raise UserError(f"--embeddings {path}: must be a .safetensors file in a folder that exists")
    if os.path.lexists(path):
        raise UserError(f"--embeddings {path}: exists already", hint="name another, or delete it")


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; what came there meanwhile stays."""
    from dmlbench.errors import UserError

    try:
        with path.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"--embeddings {path}: cannot be written ({error.strerror})", hint="name another") from error


def _say(line: str) -> None:
    echo(line, err=True)
