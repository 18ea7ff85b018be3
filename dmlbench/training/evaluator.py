"""Measures a network on classes it was not trained on."""

import time

import torch
from torch import Tensor, nn

from dmlbench.data.images import Split
from dmlbench.data.loader import EvaluationBatches
from dmlbench.errors import DivergedError
from dmlbench.evaluation import clustering_metrics, geometry_metrics, retrieval_metrics
from dmlbench.randomness import stream_seed
from dmlbench.spec import ProtocolSpec
from dmlbench.training.learner import AUTOCAST


class Evaluator:
    """Embeds a split and scores it; keeps the transformed images between epochs where they are small."""

    def __init__(
        self, split: Split, protocol: ProtocolSpec, seed: int, device: torch.device, data_workers: int = 0
    ) -> None:
        self.labels = split.labels
        self.batches = EvaluationBatches(split, protocol, device=device, data_workers=data_workers)
        self.evaluation = protocol.evaluation
        self.autocast = protocol.training.autocast
        self.device = device
        # One clustering stream for all epochs: k-means starts must not make epochs differ.
        self.clustering_seed = stream_seed(seed, 0, "clustering") % 2**31

    @torch.no_grad()
    def embed(self, model: nn.Module) -> Tensor:
        """Embeddings of the split in its order, (N, D) float32 on the model's device.

        Raises:
            DivergedError: where one is not finite: the weights broke after the last loss that was.
        """
        model.eval()
        dtype = AUTOCAST.get(self.autocast)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            parts = [model(images) for images in self.batches]
        model.train()
        embeddings = torch.cat(parts)
        if broken := int((~embeddings.isfinite()).any(dim=1).sum()):
            raise DivergedError(f"{broken} of {len(embeddings)} embeddings are not finite")
        return embeddings

    def measure(self, model: nn.Module, *, clustering: bool) -> dict[str, float]:
        """All metrics of the split, as fractions."""
        return self.score(self.embed(model), clustering=clustering)

    def score(self, embeddings: Tensor, *, clustering: bool) -> dict[str, float]:
        """All metrics of given embeddings of the split."""
        labels = self.labels.to(embeddings.device)
        metrics = retrieval_metrics(embeddings, labels, ks=self.evaluation.ks) | geometry_metrics(embeddings, labels)
        if clustering:
            runs = self.evaluation.clustering_runs
            metrics |= clustering_metrics(embeddings, labels, seed=self.clustering_seed, runs=runs)
        return {name: float(value) for name, value in metrics.items()}


def timed(evaluate: Evaluator, model: nn.Module, *, clustering: bool) -> tuple[dict[str, float], float]:
    """Metrics and the seconds they took; scoring ends on the host, so the wall clock is right on any device."""
    start = time.perf_counter()
    metrics = evaluate.measure(model, clustering=clustering)
    return metrics, time.perf_counter() - start
