"""Losses of ours with their counterparts of pytorch-metric-learning (PML), and the batch that both get."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor, nn
from torch.nn.functional import normalize

from dmlbench.losses import (
    ArcFaceLoss,
    CircleLoss,
    ContrastiveLoss,
    CosFaceLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NormalisedSoftmaxLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    ProxyNCAPlusPlusLoss,
    SmoothAPLoss,
    SoftTripleLoss,
    SupConLoss,
    TripletLoss,
)
from dmlbench.modifiers import distillation_loss, obdsd_targets

BATCH, DIMENSION, CLASSES = 112, 128, 56


def make_batch(classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Two images of each of 56 classes, as far from each other as early in a training."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randperm(classes, generator=generator)[:CLASSES].repeat_interleave(2)
    centres = torch.randn(CLASSES, DIMENSION, generator=generator).repeat_interleave(2, dim=0)
    noise = torch.randn(BATCH, DIMENSION, generator=generator)
    return normalize(centres + 1.5 * noise), labels


@dataclass(frozen=True)
class Peers:
    """What builds our loss and PML's for a number of classes, and what mines for PML's; ours mine by themselves."""

    ours: Callable[[int], nn.Module]
    theirs: Callable[[int], nn.Module]
    miner: Callable[[], nn.Module] | None = None

    def steps(self, classes: int = CLASSES, device: str = "cpu") -> dict[str, Callable[[], None]]:
        """Forward and backward of a batch, by whose loss it is."""
        embeddings, labels = (part.to(device) for part in make_batch(classes))
        embeddings.requires_grad_()
        ours, theirs = self.ours(classes).to(device), self.theirs(classes).to(device)
        miner, generator = self.miner and self.miner(), torch.Generator(device).manual_seed(0)

        def our_step() -> None:
            embeddings.grad = None
            ours.zero_grad()
            ours(embeddings, labels, generator=generator).backward()

        def their_step() -> None:
            embeddings.grad = None
            theirs.zero_grad()
            theirs(embeddings, labels, miner and miner(embeddings, labels)).backward()

        return {"ours": our_step, "PML": their_step}


class _Distillation(nn.Module):
    """OBD-SD as on CUB, alone or with the loss that it is added to."""

    teacher: Tensor

    def __init__(self, base: nn.Module | None = None) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("teacher", make_batch()[0].flip(0))

    def forward(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        added = 1000 * distillation_loss(embeddings, obdsd_targets(self.teacher, 1.0, 0.3, 1.0), 1.0)
        return added if self.base is None else self.base(embeddings, labels, generator) + added


def _of_sizes(kind: Callable[[int, int], nn.Module], classes: int) -> nn.Module:
    return kind(classes, DIMENSION)


def _multi_similarity(_: int) -> nn.Module:
    return losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5)


_mined_pairs = partial(miners.MultiSimilarityMiner, epsilon=0.1)
_mined_triplets = partial(miners.DistanceWeightedMiner, cutoff=0.5, nonzero_loss_cutoff=2)
_OF_TRIPLETS = {
    "contrastive": (
        lambda _: ContrastiveLoss(),
        lambda _: losses.ContrastiveLoss(distance=distances.LpDistance()),
    ),
    "triplet": (
        lambda _: TripletLoss(),
        lambda _: losses.TripletMarginLoss(0.2, distance=distances.LpDistance(power=2)),
    ),
    "margin": (MarginLoss, lambda classes: losses.MarginLoss(learn_beta=True, num_classes=classes)),
}
OF_PAIRS = {
    "multi_similarity, mined": Peers(lambda _: MultiSimilarityLoss(), _multi_similarity, _mined_pairs),
    "multi_similarity with obdsd, PML's MS": Peers(
        lambda _: _Distillation(MultiSimilarityLoss()), _multi_similarity, _mined_pairs
    ),
    # Nothing of PML's compares; one step of its Multi-Similarity loss serves as the yardstick.
    "obdsd, PML's MS": Peers(lambda _: _Distillation(), _multi_similarity, _mined_pairs),
    **{
        f"{name}, PML {mining}": Peers(ours, theirs, miner)
        for name, (ours, theirs) in _OF_TRIPLETS.items()
        for mining, miner in (("mined", _mined_triplets), ("all", None))
    },
    "supcon": Peers(lambda _: SupConLoss(), lambda _: losses.SupConLoss()),
    "nt_xent": Peers(lambda _: NTXentLoss(), lambda _: losses.NTXentLoss()),
    "circle": Peers(lambda _: CircleLoss(), lambda _: losses.CircleLoss()),
    "smooth_ap": Peers(lambda _: SmoothAPLoss(), lambda _: losses.SmoothAPLoss()),
}
_KINDS = {
    "proxy_anchor": (ProxyAnchorLoss, losses.ProxyAnchorLoss),
    "normalised_softmax": (NormalisedSoftmaxLoss, losses.NormalizedSoftmaxLoss),
    "cosface": (CosFaceLoss, losses.CosFaceLoss),
    "arcface": (ArcFaceLoss, losses.ArcFaceLoss),
    "proxy_nca_pp": (ProxyNCAPlusPlusLoss, losses.ProxyNCALoss),
    "soft_triple, both without regulariser": (partial(SoftTripleLoss, tau=0.0), losses.SoftTripleLoss),
}
OF_PROXIES = {
    name: Peers(partial(_of_sizes, ours), partial(_of_sizes, theirs)) for name, (ours, theirs) in _KINDS.items()
}
PEERS = OF_PAIRS | OF_PROXIES
