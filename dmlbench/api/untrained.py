"""What is scored and not trained here: the user's own embeddings, and a network as it is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmlbench.api import naming_arguments
from dmlbench.api.given import Given, read_given
from dmlbench.api.networks import evaluate
from dmlbench.data.catalogue import DatasetInfo, dataset_info
from dmlbench.data.family import Log
from dmlbench.data.images import load_dataset
from dmlbench.data.ready import dataset_spec, prepare, tested
from dmlbench.errors import DivergedError, UserError, counted
from dmlbench.models.model import BackboneFeatures
from dmlbench.models.pretrained import is_file
from dmlbench.results.environment import versions
from dmlbench.results.evaluated import Evaluated, check_name, file_of, new_file, now, read_row, write_evaluated
from dmlbench.results.store import Store
from dmlbench.runner.execution import checked_device
from dmlbench.runner.matrix import data_folder
from dmlbench.specs.dataset import DatasetSpec
from dmlbench.specs.protocol import resolve_protocol
from dmlbench.specs.protocol_spec import EvaluationSpec, ModelSpec, ProtocolSpec
from dmlbench.specs.registry import Registry
from dmlbench.training.build import build_seeded_model
from dmlbench.training.device import prepare as prepare_process
from dmlbench.training.device import resolve_device
from dmlbench.training.evaluator import Evaluator

FIRST_WEIGHTS = "IMAGENET1K_V1"  # what `pretrained` means of torchvision: its DEFAULT changes between releases
SHOWN = 12  # digits of a digest
TOGETHER = "--results and --name go together"
Metrics = dict[str, float]


@naming_arguments
def evaluate_file(
    embeddings: str | Path,
    labels: str | Path | None = None,
    *,
    ks: Sequence[int] | None = None,
    dataset: str | None = None,
    protocol: str | None = None,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
    results: str | Path | None = None,
    name: str | None = None,
) -> dict[str, float]:
    """Score embeddings of a file; with `results`, also write them down as a row of a report's leaderboard.

    Args:
        embeddings: A .npz, .npy or .safetensors file: see `given.read_given`.
        labels: A .npy, .csv or .txt file [default: the labels in the file of embeddings].
        ks: For which k recall is measured [default: those of the protocol on the dataset, else 1, 2, 4, 8].
        dataset: On whose test classes they are, whose numbers of images and classes they must have.
        protocol: In whose table the row goes [default: the dataset's].
        data_dir: Where the images are; needed only for a dataset of your own, whose numbers are counted, and with
            `skip_bad`.
        skip_bad: Whether they are without the images of `dataset` that cannot be used, as those of such a run.
        results: The results folder that the row goes to; needs a `dataset`, and 1 among `ks`.
        name: The row's.

    Returns:
        The metrics of `evaluate`.

    Raises:
        UserError: for a file that is none, numbers that are not the dataset's, or a row that cannot be written.
    """
    given = read_given(Path(embeddings), None if labels is None else Path(labels))
    if (results is None) != (name is None):
        raise UserError(TOGETHER)
    needing = {"--results": results, "--protocol": protocol, "--skip-bad": skip_bad, "--data-dir": data_dir}
    if dataset is None and (option := next((own for own, value in needing.items() if value), "")):
        raise UserError(f"{option}: needs --dataset", hint="the one whose test classes these are")
    info = dataset_info(dataset, "--dataset") if dataset else None
    spec = resolve_protocol(protocol or info.default_protocol, info.name) if info else None
    wanted = tuple(ks) if ks else spec.evaluation.ks if spec else EvaluationSpec().ks
    if results:
        _check_has_one(wanted, "--ks" if ks else "evaluation.ks")
    folder = data_folder(None if data_dir is None else Path(data_dir))
    skipping = dataset_spec(info, folder, lambda _: None, skip_bad=True) if info and skip_bad else None
    if info:
        _check_counts(info, given, folder, skipping.skipped if skipping else ())
    file = _file(results, name, spec.name, info.name) if info and spec else None
    queries, gallery = given.sides
    try:
        metrics = evaluate(*queries, ks=wanted, gallery=gallery)
    except ValueError as error:
        raise UserError(f"--embeddings {given.path}: {error}") from error
    if file and info:
        data = skipping or dataset_spec(info, folder, lambda _: None)
        about = f"embeddings, {given.embeddings.shape[1]}-d, SHA-256 {given.sha256[:SHOWN]}"
        _write(file, ("embeddings", about, given.sha256), data, given, metrics)
    return metrics


def _check_has_one(ks: Sequence[int], option: str) -> None:
    """Raise UserError where a row of the leaderboard would lack recall@1."""
    if 1 not in ks:
        said = ", ".join(map(str, ks))
        raise UserError(
            f"{option} {said}: a row of the leaderboard has recall_at_1", hint="add 1, or leave --results out"
        )


class _Tested(Protocol):
    """Test images of any kind, by their labels and which are queries."""

    @property
    def labels(self) -> Tensor | NDArray[np.int64]:
        """The class of each, (N,)."""

    @property
    def queries(self) -> Tensor | NDArray[np.bool_] | None:
        """Which are queries, (N,); None where each is both."""


def _write(
    file: Path,
    what: tuple[Literal["embeddings", "network"], str, str],
    data: DatasetSpec,
    test: _Tested,
    metrics: Metrics,
) -> None:
    """Write a row: what it is, in words, and its digest; the file's own name and folders say the rest."""
    labels, asking = np.asarray(test.labels), 0 if test.queries is None else int(test.queries.sum())
    kind, about, sha256 = what
    row = Evaluated(
        name=file.stem, what=kind, about=about, sha256=sha256, protocol=file.parent.parent.name, dataset=data.name,
        dataset_version=data.version, test_images=len(labels), query_images=asking,
        test_classes=len(np.unique(labels)), metrics=metrics, made=now(), dmlbench=versions()["dmlbench"],
    )  # fmt: skip
    write_evaluated(file, row)


def _check_counts(info: DatasetInfo, given: Given, folder: Path | None, skipped: Sequence[str]) -> None:
    """Raise UserError where embeddings cannot be of a dataset's test images, but for those that are skipped."""
    asking = 0 if given.queries is None else int(given.queries.sum())
    found = len(given.labels), len(np.unique(given.labels)), asking
    there = tested(info, folder, skipped)
    left = f" without {counted(len(skipped), 'unusable image')}" if skipped else ""
    for what, own, other in zip(("test images", "test classes", "queries"), found, there, strict=True):
        if own != other:
            raise UserError(f"--embeddings {given.path}: has {own} {what}, and {info.name} has {other}{left}")


def _file(results: str | Path | None, name: str | None, protocol: str, dataset: str) -> Path | None:
    """Where a row goes, which is not there yet; None where none is asked for."""
    if (results is None) != (name is None):
        raise UserError(TOGETHER)
    if results is None or name is None:
        return None
    check_name(name, Registry().names())
    Store(Path(results)).check_writable()
    return new_file(Path(results), protocol, dataset, name)


@naming_arguments
def evaluate_network(
    model: str,
    dataset: str,
    *,
    weights: str | None = None,
    protocol: str | None = None,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    results: str | Path | None = None,
    name: str | None = None,
    log: Log = lambda _: None,
) -> dict[str, float]:
    """Score the features of a network as it is, without any training, on a dataset's test classes.

    Its features are pooled as the protocol says and scaled to unit length; there is no head. What `results` has of the
    same network and images is returned, and not measured again.

    Args:
        model: `conv4`, `timm:NAME` or `torchvision:NAME`.
        dataset: Name, `NAME=FOLDER`, `NAME=FILE.csv`, or the path of a YAML file.
        weights: `pretrained`, a name that torchvision knows, or a .safetensors or .pth file [default: random].
        protocol: Whose images it sees, and in whose table the row goes [default: the dataset's].
        data_dir: Where the data are.
        skip_bad: Whether images that cannot be used are left out.
        device: `auto`, `cpu` or `cuda`.
        results: The results folder that a row of the leaderboard goes to.
        name: The row's.
        log: Takes one line per lengthy step.

    Returns:
        The metrics of a cell's `summary.json`.

    Raises:
        UserError: for a network, weights or data that cannot be used, or a row that cannot be written.
    """
    planned = plan_network(
        model, dataset, weights=weights, protocol=protocol, data_dir=data_dir, skip_bad=skip_bad, device=device,
        results=results, name=name, log=log,
    )  # fmt: skip
    return score_network(planned, log)


@dataclass(frozen=True)
class Planned:
    """A network that can be scored on a dataset, which is ready.

    Attributes:
        model: As the user named it.
        protocol: With the network in place of its own.
        data: The dataset's version.
        folder: Where the data are.
        device: Where it runs.
        file: Where its row goes, if anywhere.
        finished: The metrics of the row that is there already.
    """

    model: str
    protocol: ProtocolSpec
    data: DatasetSpec
    folder: Path | None
    device: torch.device
    file: Path | None
    finished: Metrics | None

    @property
    def what(self) -> tuple[Literal["network"], str, str]:
        """What its row says that it is: see `_write`."""
        own = self.protocol.model
        return "network", _about(own), own.weights_sha256 or ""


def plan_network(
    model: str,
    dataset: str,
    *,
    weights: str | None = None,
    protocol: str | None = None,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    results: str | Path | None = None,
    name: str | None = None,
    log: Log = lambda _: None,
) -> Planned:
    """Check all that scoring a network needs, and make its dataset ready; arguments and errors of `evaluate_network`.

    A row that is there already is not an error where it is of the same network and images: it need not be made again.
    """
    info, folder = dataset_info(dataset, "--dataset"), data_folder(None if data_dir is None else Path(data_dir))
    spec = _as_it_is(resolve_protocol(protocol or info.default_protocol, info.name), model, weights)
    if results:
        _check_has_one(spec.evaluation.ks, "evaluation.ks")
    where = resolve_device(checked_device(device))
    data = dataset_spec(info, folder, log, skip_bad=skip_bad)
    planned = Planned(model, spec, data, folder, where, None, None)
    if results and name and (path := file_of(Path(results), spec.name, info.name, name)).exists():
        row = read_row(path)
        if ((row.what, row.about, row.sha256), row.dataset_version) == (planned.what, data.version):
            return replace(planned, finished=row.metrics)
    planned = replace(planned, file=_file(results, name, spec.name, info.name))
    _network(spec, torch.device("cpu"))
    prepare(data, folder, log)
    return planned


def score_network(planned: Planned, log: Log = lambda _: None) -> Metrics:
    """Score a network that `plan_network` returned, and write its row; raises UserError for one that cannot be used."""
    if planned.finished is not None:
        log(f"{planned.data.name}: is in the results folder already, and not scored again")
        return planned.finished
    spec, where = planned.protocol, planned.device
    prepare_process(spec.training, where)
    network = _network(spec, where)
    test = load_dataset(planned.data, planned.folder, log).test
    evaluation = spec.evaluation.model_copy(update={"nmi_revisiting": False})
    try:
        scored = Evaluator(test, spec.model_copy(update={"evaluation": evaluation}), 0, where)
        metrics = scored.measure([network], clustering=True)
    except DivergedError as error:
        raise UserError(f"--model {planned.model}: {error}") from error
    if planned.file:
        _write(planned.file, planned.what, planned.data, test, metrics)
    return metrics


def _network(protocol: ProtocolSpec, device: torch.device) -> BackboneFeatures:
    """A protocol's network without its head; raises UserError for one that cannot be built."""
    with torch.random.fork_rng(devices=[]):
        return BackboneFeatures(build_seeded_model(protocol, 0, device).backbone)


def _as_it_is(protocol: ProtocolSpec, backbone: str, weights: str | None) -> ProtocolSpec:
    """The protocol with another network and weights; a shape that it states holds for its own backbone alone."""
    source, own = backbone.partition(":")[0], protocol.model
    name = FIRST_WEIGHTS if (source, weights) == ("torchvision", "pretrained") else weights
    digest = None
    if name and is_file(name):
        try:
            digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"--weights {name}: cannot be read ({error.strerror})") from error
    model = ModelSpec(
        backbone=backbone, kwargs=own.kwargs if own.backbone == backbone else {}, weights=name, weights_sha256=digest,
        pooling=own.pooling, embedding_dim=own.embedding_dim,
    )  # fmt: skip
    return protocol.model_copy(update={"model": model})


def _about(model: ModelSpec) -> str:
    if not model.weights:
        return f"{model.backbone}, random weights"
    named = f"weights of SHA-256 {model.weights_sha256[:SHOWN]}" if model.weights_sha256 else f"weights {model.weights}"
    return f"{model.backbone}, {named}"
