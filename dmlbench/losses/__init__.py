"""Ranking losses of deep metric learning, each as its official implementation computes it.

Every loss is a `torch.nn.Module` called as `loss(embeddings, labels, ..., generator=None)` that returns a
scalar: float32 whatever the autocast mode, differentiable, and 0 where the batch holds no valid pair.
Embeddings are L2-normalised rows (N, D), labels integers (N,), both on one device; a wrong shape, type or device is
a ValueError. Nothing in a forward pass waits for the device, and shapes never depend on the data: so an embedding that
is not finite makes the loss NaN, and a label without a proxy or boundary is a ValueError on a CPU, where it costs
nothing to see, and PyTorch's own assertion on CUDA.

Losses of pairs also take `references=` and `reference_labels=`, such as a memory of earlier batches: then the batch's
embeddings form pairs with these, and none with each other.
"""

from dmlbench.losses.arcface import ArcFaceLoss
from dmlbench.losses.circle import CircleLoss
from dmlbench.losses.contrastive import ContrastiveLoss
from dmlbench.losses.cosface import CosFaceLoss
from dmlbench.losses.cosine_contrastive import CosineContrastiveLoss
from dmlbench.losses.margin import MarginLoss
from dmlbench.losses.multi_similarity import MultiSimilarityLoss
from dmlbench.losses.normalised_softmax import NormalisedSoftmaxLoss
from dmlbench.losses.nt_xent import NTXentLoss
from dmlbench.losses.proxy_anchor import ProxyAnchorLoss
from dmlbench.losses.proxy_nca_pp import ProxyNCAPlusPlusLoss
from dmlbench.losses.recall_at_k import RecallAtKLoss
from dmlbench.losses.smooth_ap import SmoothAPLoss
from dmlbench.losses.soft_triple import SoftTripleLoss
from dmlbench.losses.sphere_pair import SpherePairLoss
from dmlbench.losses.supcon import SupConLoss
from dmlbench.losses.triplet import TripletLoss

__all__ = [
    "ArcFaceLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CosineContrastiveLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "NormalisedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCAPlusPlusLoss",
    "RecallAtKLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SpherePairLoss",
    "SupConLoss",
    "TripletLoss",
]
