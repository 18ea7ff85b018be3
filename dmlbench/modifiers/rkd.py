"""Relational knowledge distillation (RKD): the teacher's distances and angles within the batch are regressed.

Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from dmlbench.modifiers.teachers import Distillation, check_floats, similarities

TINY = 1e-24  # of a squared distance: what the official code's normalisation takes for 0


class RKD(Distillation):
    """RKD with its settings: lambda * (distance potential + angle * angle potential), the same in every epoch.

    In the paper the teacher is a network that was trained before; here it is the one that the method file asks for.

    Args:
        lambda_: Weight of the distance potential, >= 0.
        angle: Weight of the angle potential over that of the distance potential, >= 0.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(self, *, lambda_: Annotated[float, Ge(0)] = 1.0, angle: Annotated[float, Ge(0)]) -> None:
        super().__init__(lambda_)
        if angle < 0:
            raise ValueError(f"angle must be at least 0, got {angle}")
        self.angle = angle

    def divergence(self, embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """Return the weighted sum of `relational_loss` and `angular_loss`."""
        distance = relational_loss(embeddings, teacher_embeddings)
        return distance + self.angle * angular_loss(embeddings, teacher_embeddings) if self.angle else distance


def relational_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Return RKD's distance potential: the smooth L1 distance of two relative distance matrices (CVPR 2019, eq. 5).

    Args:
        embeddings: The student's float tensor (N, D).
        targets: Embeddings (N, D') of the same images, to learn from; they get no gradient.

    Returns:
        A differentiable scalar, 0 where all distances of one are those of the other times one factor.

    Raises:
        ValueError: If a shape is wrong.
    """
    _check(embeddings, targets)
    return potential(relative_distances(embeddings), relative_distances(targets).detach())


def angular_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Return RKD's angle potential: the smooth L1 distance of all cosines of angles (CVPR 2019, eq. 7 and 8).

    Each three embeddings have one: that between the ways from the first to the two others. Where two of them are equal
    there is none, and it counts as 0. Memory grows with N^3 and N^2 D.

    Args:
        embeddings: The student's float tensor (N, D).
        targets: Embeddings (N, D') of the same images, to learn from; they get no gradient.

    Returns:
        A differentiable scalar, 0 where all angles of one are those of the other.

    Raises:
        ValueError: If a shape is wrong.
    """
    _check(embeddings, targets)
    return potential(_angles(embeddings), _angles(targets).detach())


def _angles(embeddings: Tensor) -> Tensor:
    """Return for embeddings (N, D) the cosines (N, N, N) of the angles at i between the ways to j and to k."""
    with torch.autocast(embeddings.device.type, enabled=False):
        points = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        ways = points - points[:, None]
        squared = ways.square().sum(dim=2, keepdim=True)
        # A way of no length has no direction, and its norm no gradient. Asked this way round, NaN reaches the loss.
        apart = ~(squared <= TINY)
        directions = torch.where(apart, ways / torch.where(apart, squared, 1.0).sqrt(), 0.0)
        return directions @ directions.mT


def _check(embeddings: Tensor, targets: Tensor) -> None:
    for given in (embeddings, targets):
        check_floats("embeddings", given, "(N, D) with N >= 1")
        if given.ndim != 2 or len(given) == 0:
            raise ValueError(f"embeddings must be a float tensor (N, D) with N >= 1, got {tuple(given.shape)}")
    if len(embeddings) != len(targets):
        raise ValueError(f"both need an embedding for each image, got {len(embeddings)} and {len(targets)}")
    if embeddings.device != targets.device:
        raise ValueError(f"both must be on one device, got {embeddings.device} and {targets.device}")


def relative_distances(embeddings: Tensor) -> Tensor:
    """Return the Euclidean distances (N, N) of embeddings (N, D) over the mean of those that are not 0.

    Raises:
        ValueError: If the embeddings are no float tensor (N, D) with N >= 1.
    """
    products = similarities(embeddings)
    norms = products.diagonal()
    squared = norms[:, None] + norms - 2 * products
    # What rounding leaves of the distance of equal embeddings is none, and at 0 a root has no gradient.
    tiny = 8 * torch.finfo(squared.dtype).eps * norms.detach().mean().clamp(min=torch.finfo(squared.dtype).tiny)
    # Asked this way round, NaN counts as apart and reaches the loss.
    apart = (~(squared <= tiny)).fill_diagonal_(fill_value=False)
    distances = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
    mean = distances.sum() / apart.sum().clamp(min=1)
    return distances / torch.where(mean == 0, 1.0, mean)


def potential(relations: Tensor, targets: Tensor) -> Tensor:
    """Return the smooth L1 distance, averaged over all entries, of relations of a batch to others of the same shape."""
    return functional.smooth_l1_loss(relations, targets)
