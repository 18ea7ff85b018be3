"""Trained networks from Python: load what `run --keep weights` saved, embed images, score embeddings."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dmlbench.api import naming_arguments
from dmlbench.data.catalogue import dataset_info
from dmlbench.data.family import Log
from dmlbench.data.images import Split, decode, load_of_cell
from dmlbench.data.ready import dataset_spec, prepare
from dmlbench.errors import DivergedError, UserError
from dmlbench.evaluation import clustering_metrics, geometry_metrics, retrieval_metrics
from dmlbench.models.model import EmbeddingModel, load_networks
from dmlbench.results.store import read_spec, read_summary
from dmlbench.runner.execution import checked_device
from dmlbench.runner.matrix import data_folder
from dmlbench.specs.cell import Cell
from dmlbench.training.build import untrained_network
from dmlbench.training.device import prepare as prepare_process
from dmlbench.training.device import resolve_device
from dmlbench.training.evaluator import Evaluator

WEIGHTS = "weights.safetensors"
Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor


@naming_arguments
def load_model(folder: str | Path, *, network: int = 1, device: str = "cpu") -> EmbeddingModel:
    """Load the network whose weights `run --keep weights` left in a cell's folder.

    Args:
        folder: The cell's.
        network: Which one, counted from 1, where the method trains several.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        A `torch.nn.Module` in evaluation mode: (B, C, H, W) normalised images -> (B, D) embeddings of unit length.

    Raises:
        UserError: where there are no weights, they do not fit the spec, or there is no such network.
    """
    networks = _networks(Path(folder), read_cell(Path(folder)), resolve_device(checked_device(device)))
    if not 1 <= network <= len(networks):
        raise UserError(f"{folder}: network {network}: valid are 1 to {len(networks)}")
    return networks[network - 1].eval()


@naming_arguments
def embed(
    folder: str | Path,
    images: Sequence[Picture] | str | Path,
    *,
    model: EmbeddingModel | None = None,
    device: str = "auto",
) -> Tensor:
    """Embed images as the cell's protocol evaluates them: resized, cropped at the centre and normalised.

    Args:
        folder: The cell's, with weights that `run --keep weights` saved.
        images: Paths, PIL images, or uint8 pixels: arrays (H, W) or (H, W, 3), tensors (C, H, W).
        model: As `load_model` returns it [default: the cell's first network].
        device: `auto`, `cpu` or `cuda`.

    Returns:
        (N, D) float32 of unit length, on the CPU.

    Raises:
        UserError: where the weights or an image cannot be used.
    """
    images = [images] if isinstance(images, str | Path) else images
    if not len(images):
        raise UserError("no images to embed")
    cell, where = read_cell(Path(folder)), resolve_device(checked_device(device))
    network = model if model is not None else load_model(folder, device=device)
    given = Split(_Given(tuple(images)), torch.zeros(len(images), dtype=torch.int64), ("",))
    with torch.random.fork_rng(devices=[]):
        return Evaluator(given, cell.protocol, cell.seed, where).embed(network.to(where)).cpu()


def evaluate(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    ks: Sequence[int] | int = (1, 2, 4, 8),
    *,
    gallery: tuple[Tensor | np.ndarray, Tensor | np.ndarray] | None = None,
    clustering: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    """Score embeddings as a cell's test classes are scored.

    Args:
        embeddings: (N, D) numbers; rows are scaled to unit length.
        labels: (N,) whole numbers, the class of each.
        gallery: Embeddings (M, D) and labels (M,) among which the queries, which are then the first two arguments,
            search; None where each embedding searches all others. Clusters and geometry are of both together.
        ks: For which k recall is measured.
        clustering: Whether NMI and AMI are, too; k-means takes most of the time.
        seed: Of k-means.

    Returns:
        Fractions by name: `recall_at_K`, `map_at_r`, `r_precision`, `nmi`, `ami`, and the geometry of the space; and
        the counts `queries` and `singleton_queries`, which have no other image of their class.

    Raises:
        ValueError: for a wrong shape or type, and embeddings that are not finite.
    """
    found = retrieval_metrics(embeddings, labels, (ks,) if isinstance(ks, int) else tuple(ks), gallery=gallery)
    if gallery is not None:
        embeddings, labels = (
            torch.cat([torch.as_tensor(own), torch.as_tensor(other).to(torch.as_tensor(own).device)])
            for own, other in zip((embeddings, labels), gallery, strict=True)
        )
    found |= geometry_metrics(embeddings, labels)
    found |= clustering_metrics(embeddings, labels, seed=seed) if clustering else {}
    return {name: float(value) for name, value in found.items()}


@naming_arguments
def evaluate_cell(
    folder: str | Path,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    embeddings: str | Path | None = None,
    log: Log = lambda _: None,
) -> dict[str, float]:
    """Score the weights of a cell's folder on its test classes, or on another dataset's.

    Args:
        folder: The cell's.
        dataset: Name, or `NAME=FOLDER` of images [default: the cell's].
        data_dir: Where the data are.
        skip_bad: Whether images of `dataset` that cannot be used are left out.
        device: `auto`, `cpu` or `cuda`.
        embeddings: A new .safetensors file for the test embeddings of the first network: see `read_embeddings`.
        log: Takes one line per lengthy step.

    Returns:
        The metrics of `summary.json`, by name.

    Raises:
        UserError: where the weights or the data cannot be used, the network's embeddings are not finite, or their file
            is there already.
    """
    path, file = Path(folder), None if embeddings is None else Path(embeddings)
    if file:
        _check_new(file)
    cell, given = read_cell(path), data_folder(None if data_dir is None else Path(data_dir))
    spec = dataset_spec(dataset_info(dataset, "--dataset"), given, log, skip_bad=skip_bad) if dataset else cell.dataset
    prepare(spec, given, log)
    where = resolve_device(checked_device(device))
    prepare_process(cell.protocol.training, where)
    networks = _networks(path, cell, where)
    test = load_of_cell(replace(cell, dataset=spec), given, log).test
    evaluator = Evaluator(test, cell.protocol, cell.seed, where, training_classes=_training_classes(path))
    try:
        metrics = evaluator.measure(networks, clustering=True)
        if file:
            _write_new(file, evaluator.embeddings_file(networks[0]))
    except DivergedError as error:
        raise UserError(f"{path / WEIGHTS}: {error}", hint="its training diverged") from error
    return metrics


def read_cell(folder: Path) -> Cell:
    """The spec of a cell that kept its weights; raises UserError where the folder is none."""
    if not (folder / "spec.yaml").is_file():
        hint = "name one such as results/runs/PROTOCOL/DATASET/METHOD/seed0-1234abcd; see `dmlbench status`"
        raise UserError(f"{folder}: not a cell's folder", hint=hint)
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder / WEIGHTS}: no such file",
            hint="`dmlbench run --keep weights` leaves them; a finished cell needs another results folder",
        )
    return read_spec(folder)


def _networks(folder: Path, cell: Cell, device: torch.device) -> list[EmbeddingModel]:
    classes = _training_classes(folder) or 2
    with torch.random.fork_rng(devices=[]):  # initial weights that the saved ones replace
        return load_networks(lambda: untrained_network(cell.method, cell.protocol, classes, device), folder / WEIGHTS)


def _training_classes(folder: Path) -> int | None:
    """How many classes the cell learned; None where its summary is not written yet."""
    summary = read_summary(folder)
    return (summary.dataset.train_classes or None) if summary and summary.dataset else None


def _check_new(path: Path) -> None:
    """Raise UserError before the work where a file cannot be written afterwards."""
    if path.suffix != ".safetensors" or not path.parent.is_dir():
        raise UserError(f"--embeddings {path}: must be a .safetensors file in a folder that exists")
    if os.path.lexists(path):
        raise UserError(f"--embeddings {path}: exists already", hint="name another, or delete it")


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; what came there meanwhile stays."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"--embeddings {path}: cannot be written ({error.strerror})", hint="name another") from error


@dataclass(frozen=True)
class _Given:
    """Images that the user gave, uint8 (C, H, W) each, read when asked for."""

    pictures: tuple[Picture, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        picture = self.pictures[index]
        try:
            pixels = _pixels(picture)
        except (OSError, SyntaxError, ValueError, TypeError) as error:
            which = picture if isinstance(picture, str | Path) else f"image {index}"
            raise UserError(f"{which}: not an image ({(str(error).splitlines() or ['no content'])[0]})") from error
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
            found = f"{pixels.dtype} {tuple(pixels.shape)}"
            raise UserError(
                f"image {index}: must be uint8, an array (H, W) or (H, W, 3) or a tensor (C, H, W), got {found}"
            )
        return pixels


def _pixels(picture: Picture) -> Tensor:
    if isinstance(picture, str | Path):
        return decode(torch.from_numpy(np.fromfile(picture, dtype=np.uint8)))
    if isinstance(picture, Tensor):
        return picture
    array = np.array(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
