"""k-means on the device of the points, by the rules of scikit-learn's KMeans, which runs on a CPU alone."""

import math

import torch
from torch import Tensor

MOST_ITERATIONS = 300
TOLERANCE = 1e-4  # of the mean variance of a dimension: what the centres may still move in all
TILE = 2**28  # distances at a time: 1 GiB


@torch.no_grad()
def k_means(points: Tensor, k: int, seed: int, *, careful: bool) -> Tensor:
    """Cluster points by Lloyd's iterations until their clusters stay, or the centres hardly move.

    A cluster that loses all its points takes the point that is farthest from its centre.

    Args:
        points: (N, D) float32; their device does the work.
        k: Clusters, from 1 to N.
        seed: Of the start, >= 0.
        careful: Start by greedy k-means++ (Arthur, Vassilvitskii, SODA 2007), else from k random points.

    Returns:
        (N,) int64, each point's cluster.

    Raises:
        ValueError: If there are fewer points than clusters.
    """
    if not 1 <= k <= len(points):
        raise ValueError(f"k must be from 1 to the {len(points)} points, got {k}")
    generator = torch.Generator(points.device).manual_seed(seed)
    points = points - points.mean(dim=0)
    centres = _spread(points, k, generator) if careful else points[_random(len(points), generator)[:k]]
    enough = TOLERANCE * float(points.var(dim=0, correction=0).mean())
    clusters, distances = _nearest(points, centres)
    for _ in range(MOST_ITERATIONS):
        moved = _means(points, clusters, distances, centres)
        shift = float((moved - centres).square().sum())
        centres, before = moved, clusters
        clusters, distances = _nearest(points, centres)
        if shift <= enough or torch.equal(clusters, before):
            break
    return clusters


def _spread(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Centres (k, D), each the best of a few points drawn by their squared distance to the nearest one so far."""
    trials = min(2 + int(math.log(k)), len(points))
    chosen = _random(len(points), generator)[:1]
    closest = _distances(points[chosen], points)[0]
    for _ in range(k - 1):
        # The largest of log p + Gumbel noise are a draw without replacement: torch's draws with one are not
        # deterministic on CUDA.
        noise = torch.rand(len(points), device=points.device, generator=generator)
        drawn = (closest.log() - (-noise.log()).log()).topk(trials).indices
        candidates = torch.minimum(closest, _distances(points[drawn], points))
        best = candidates.sum(dim=1).argmin()
        closest = candidates.index_select(0, best[None])[0]
        chosen = torch.cat([chosen, drawn.index_select(0, best[None])])
    return points[chosen]


def _random(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, device=generator.device, generator=generator).argsort()


def _distances(ones: Tensor, others: Tensor) -> Tensor:
    """Squared distances (M, N) of points (M, D) and (N, D)."""
    products = torch.addmm(others.square().sum(dim=1), ones, others.T, alpha=-2)
    return products.add_(ones.square().sum(dim=1)[:, None]).clamp_(min=0)


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Each point's nearest centre, (N,), and its squared distance, (N,)."""
    parts = [_distances(part, centres).min(dim=1) for part in points.split(max(1, TILE // len(centres)))]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def _means(points: Tensor, clusters: Tensor, distances: Tensor, centres: Tensor) -> Tensor:
    """Centres (k, D): the mean of each cluster's points; an empty cluster's is a far point, which leaves its own."""
    sizes = torch.zeros(len(centres), device=points.device).index_add_(0, clusters, torch.ones_like(distances))
    if len(empty := (sizes == 0).nonzero().squeeze(1)):
        far = distances.topk(len(empty)).indices
        clusters = clusters.index_copy(0, far, empty)
        sizes = torch.zeros_like(sizes).index_add_(0, clusters, torch.ones_like(distances))
    sums = torch.zeros_like(centres).index_add_(0, clusters, points)
    # Taking far points may leave a cluster of one behind, and empty: it stays where it was.
    return torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
