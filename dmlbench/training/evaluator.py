"""Measures a network on classes it was not trained on."""

import json
import math
import statistics
import time
from collections.abc import Sequence

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import normalize

from dmlbench.data.family import escaped
from dmlbench.data.images import Split
from dmlbench.data.loader import EvaluationBatches
from dmlbench.errors import DivergedError, UserError
from dmlbench.evaluation import clustering_metrics, geometry_metrics, retrieval_metrics, revisiting_nmi
from dmlbench.seeding import stream_seed
from dmlbench.specs.protocol_spec import ProtocolSpec
from dmlbench.training.device import autocast


class Evaluator:
    """Embeds a split and scores it; keeps the transformed images between epochs where they are small.

    `training_classes` counts the clusters of the NMI of Roth et al., where the protocol asks for it. `distractors` are
    images of other classes that are in the gallery of every query, and are no queries. Where the split says which
    images are queries, these search among the others; clusters and geometry are of both together.

    Raises:
        UserError: where that NMI cannot be measured on the split.
    """

    def __init__(
        self,
        split: Split,
        protocol: ProtocolSpec,
        seed: int,
        device: torch.device,
        data_workers: int = 0,
        *,
        training_classes: int | None = None,
        distractors: Split | None = None,
    ) -> None:
        if protocol.evaluation.nmi_revisiting and training_classes and training_classes > len(split.labels):
            needs = f"needs {training_classes} clusters, the number of training classes"
            what = f"evaluation.nmi_revisiting: {needs}, and {len(split.labels)} test images are too few"
            raise UserError(what, hint="--set evaluation.nmi_revisiting=false")
        self.split, self.labels = split, split.labels
        self.batches = EvaluationBatches(split, protocol, device=device, data_workers=data_workers)
        self.others = (
            EvaluationBatches(distractors, protocol, device=device, data_workers=data_workers) if distractors else None
        )
        self.evaluation = protocol.evaluation
        self.autocast = protocol.training.autocast
        self.device = device
        self.training_classes = training_classes
        # One clustering stream for all epochs: k-means starts must not make epochs differ.
        self.clustering_seed = stream_seed(seed, 0, "clustering") % 2**31

    def embed(self, model: nn.Module) -> Tensor:
        """Embeddings of the split in its order, (N, D) float32 on the model's device.

        Raises:
            DivergedError: where one is not finite: the weights broke after the last loss that was.
        """
        return self._embed(model, self.batches)

    def _with_distractors(self, model: nn.Module) -> Tensor:
        """Embeddings of the split, (N, D), and after them those of the distractors, (M, D)."""
        own = self.embed(model)
        return own if self.others is None else torch.cat([own, self._embed(model, self.others)])

    @torch.no_grad()
    def _embed(self, model: nn.Module, batches: EvaluationBatches) -> Tensor:
        model.eval()
        with autocast(self.device, self.autocast):
            parts = [model(images) for images in batches]
        model.train()
        embeddings = torch.cat(parts)
        if broken := int((~embeddings.isfinite()).any(dim=1).sum()):
            raise DivergedError(f"{broken} of {len(embeddings)} embeddings are not finite")
        return embeddings

    def embeddings_file(self, model: nn.Module) -> bytes:
        """Embeddings of the split as safetensors: what `--keep embeddings` keeps.

        The tensors `embeddings` (N, D) float32 and `labels` (N,) int64; of queries and a gallery `queries` (N,) bool,
        which are queries; where images have names, in the metadata
        `images`, a JSON list of N objects with the `path` of each image, relative to the dataset, and its `class`.
        """
        tensors = {"embeddings": self.embed(model).cpu().contiguous(), "labels": self.labels.contiguous()}
        tensors |= {} if self.split.queries is None else {"queries": self.split.queries.contiguous()}
        names = [self.split.class_names[label] for label in self.labels.tolist()]
        if not self.split.paths:
            return save(tensors)
        named = zip(map(escaped, self.split.paths), map(escaped, names), strict=True)
        images = [{"path": path, "class": name} for path, name in named]
        # One key: of several the order, and so the digest of the file, would be another each time.
        return save(tensors, metadata={"images": json.dumps(images)})

    def measure(self, networks: Sequence[nn.Module], *, clustering: bool) -> dict[str, float]:
        """All metrics of the split, as fractions.

        Of several networks the mean over them, and beside it, as `NETWORK/METRIC`, those of each (`member1`, ...) and
        of their `ensemble`: the embeddings of all of them side by side, of unit length again.

        Raises:
            DivergedError: where a metric or an embedding is not finite.
        """
        measured = self._measure([self._with_distractors(network) for network in networks], clustering=clustering)
        if broken := [f"{name} is {value}" for name, value in measured.items() if not math.isfinite(value)]:
            raise DivergedError(broken[0])
        return measured

    def _measure(self, embeddings: list[Tensor], *, clustering: bool) -> dict[str, float]:
        each = [self.score(own, clustering=clustering) for own in embeddings]
        if len(each) == 1:
            return each[0]
        joint = self.score(normalize(torch.cat(embeddings, dim=1), dim=1), clustering=clustering)
        networks = {f"member{number}": own for number, own in enumerate(each, start=1)} | {"ensemble": joint}
        mean = {name: statistics.fmean(own[name] for own in each) for name in joint}
        return mean | {f"{network}/{name}": value for network, own in networks.items() for name, value in own.items()}

    def score(self, embeddings: Tensor, *, clustering: bool) -> dict[str, float]:
        """All metrics of given embeddings of the split; rows after these are distractors, and enter retrieval alone."""
        labels = self.labels.to(embeddings.device)
        embeddings, others = embeddings[: len(labels)], embeddings[len(labels) :]
        metrics = self._retrieval(embeddings, labels, others) | geometry_metrics(embeddings, labels)
        if clustering:
            runs = self.evaluation.clustering_runs
            metrics |= clustering_metrics(embeddings, labels, seed=self.clustering_seed, runs=runs)
        if clustering and self.evaluation.nmi_revisiting and self.training_classes:
            metrics["nmi_revisiting"] = revisiting_nmi(embeddings, labels, self.training_classes)
        return {name: float(value) for name, value in metrics.items()}

    def _retrieval(self, embeddings: Tensor, labels: Tensor, others: Tensor) -> dict[str, float]:
        ks = self.evaluation.ks
        if self.split.queries is None:
            return retrieval_metrics(embeddings, labels, ks, distractors=others if len(others) else None)
        asks = self.split.queries.to(embeddings.device)
        return retrieval_metrics(embeddings[asks], labels[asks], ks, gallery=(embeddings[~asks], labels[~asks]))


def timed(evaluate: Evaluator, networks: Sequence[nn.Module], *, clustering: bool) -> tuple[dict[str, float], float]:
    """Metrics and the seconds they took; scoring ends on the host, so the wall clock is right on any device."""
    start = time.perf_counter()
    metrics = evaluate.measure(networks, clustering=clustering)
    return metrics, time.perf_counter() - start
