"""Triplet mining: which positive and which negative meet an anchor.

Miners return `(triplets, valid)`: one triplet per anchor, (N, 3) int64 rows (anchor, positive, negative), and
(N,) bool, false where the anchor has no positive or no negative (its row then holds arbitrary indices).

Randomness: one uniform number per pair from `generator`, and nothing else. A choice is the largest key of a
row (the Gumbel-max trick), not a search in a cumulative sum: it cannot hit an entry of probability 0 by
rounding, and it needs no operation that CUDA lacks in deterministic mode. Positives and negatives read
disjoint entries of the same draw, so the two choices are independent.
"""

import torch
from torch import Tensor

from dmlbench.losses.batch import References, check_positive, checked, pair_masks, reference_masks


@torch.no_grad()
def distance_weighted_probabilities(embeddings: Tensor, labels: Tensor, lower_cutoff: float = 0.5) -> Tensor:
    """Return the probability that distance-weighted sampling picks each negative for each anchor.

    The probability is proportional to 1 / q(d), with q the density of distances between points spread
    uniformly over the unit sphere (Wu et al. 2017, "Sampling Matters in Deep Embedding Learning"). Distances
    below `lower_cutoff` count as `lower_cutoff`; as in Roth et al. 2020, there is no upper cut-off.

    Args:
        embeddings: L2-normalised float tensor (N, D).
        labels: Integer tensor (N,).
        lower_cutoff: Smaller distances count as this one, in (0, 2).

    Returns:
        Float tensor (N, N). Row i sums to 1 over the negatives of anchor i and is 0 elsewhere; it is all 0
        where the anchor has no negative.

    Raises:
        ValueError: If the cut-off is outside (0, 2), or shapes or types are wrong.
    """
    embeddings, labels = checked(embeddings, labels)
    _, negative = pair_masks(labels)
    with torch.autocast(embeddings.device.type, enabled=False):
        log_weights = _log_inverse_density(_distances(embeddings), embeddings.shape[1], lower_cutoff)
    # The lowest finite number, unlike -inf, keeps a row without negatives free of NaN.
    lowest = torch.finfo(log_weights.dtype).min
    return log_weights.masked_fill(~negative, lowest).softmax(dim=1) * negative


@torch.no_grad()
def distance_weighted_triplets(
    embeddings: Tensor,
    labels: Tensor,
    generator: torch.Generator | None = None,
    lower_cutoff: float = 0.5,
    references: References | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw for every anchor a uniform positive and a distance-weighted negative (Wu et al. 2017).

    Args:
        embeddings: L2-normalised float tensor (N, D), float32 or wider.
        labels: Integer tensor (N,).
        generator: Source of randomness on the embeddings' device; None is the global one.
        lower_cutoff: As in `distance_weighted_probabilities`.
        references: Where positives and negatives are drawn from in place of the batch.

    Returns:
        Triplets (N, 3) int64 and their validity (N,) bool.

    Raises:
        ValueError: If the cut-off is outside (0, 2), or shapes, types or devices are wrong.
    """
    embeddings, labels = checked(embeddings, labels)
    positive, negative = _masks(embeddings, labels, references)
    uniform = _uniform(positive, generator)
    log_weights = _log_inverse_density(_distances(embeddings, references), embeddings.shape[1], lower_cutoff)
    keys = log_weights - uniform.log().neg().log()
    chosen = keys.masked_fill(~negative, -torch.inf).argmax(dim=1)
    return _triplets(_uniform_choice(uniform, positive), chosen, positive, negative)


@torch.no_grad()
def semihard_triplets(
    embeddings: Tensor,
    labels: Tensor,
    margin: float,
    generator: torch.Generator | None = None,
    references: References | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw for every anchor a uniform positive and a uniform semi-hard negative.

    Semi-hard negatives lie farther than the positive by less than `margin` in plain L2 distance (Schroff et
    al. 2015, "FaceNet"; sampled as in Roth et al. 2020). An anchor without one draws from all its negatives.

    Args:
        embeddings: L2-normalised float tensor (N, D), float32 or wider.
        labels: Integer tensor (N,).
        margin: Width of the semi-hard band, a distance.
        generator: Source of randomness on the embeddings' device; None is the global one.
        references: Where positives and negatives are drawn from in place of the batch.

    Returns:
        Triplets (N, 3) int64 and their validity (N,) bool.

    Raises:
        ValueError: If the margin is not above 0, or shapes, types or devices are wrong.
    """
    check_positive("margin", margin)
    embeddings, labels = checked(embeddings, labels)
    positive, negative = _masks(embeddings, labels, references)
    uniform = _uniform(positive, generator)
    chosen_positive = _uniform_choice(uniform, positive)
    distances = _distances(embeddings, references)
    to_positive = distances.gather(1, chosen_positive[:, None])
    semihard = (distances > to_positive) & (distances < to_positive + margin)
    # Keys in [1, 2) beat the others' [0, 1): semi-hard negatives first, any negative where there is none.
    chosen = _uniform_choice(uniform + semihard, negative)
    return _triplets(chosen_positive, chosen, positive, negative)


def given_triplets(triplets: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Check a user's triplets and return them as a miner would: all of them valid.

    Args:
        triplets: int64 tensor (n, 3) of rows (anchor, positive, negative), indices into the batch.
        embeddings: The batch (N, D).

    Returns:
        The triplets (n, 3) and their validity (n,) bool.

    Raises:
        ValueError: If the shape, the type or the device is wrong.
    """
    rows = "triplets must be an int64 tensor (n, 3) of rows (anchor, positive, negative)"
    if not isinstance(triplets, Tensor):
        raise ValueError(f"{rows}, got {type(triplets).__name__}")  # noqa: TRY004 - one kind for bad input
    if triplets.ndim != 2 or triplets.shape[1] != 3 or triplets.dtype != torch.int64:
        raise ValueError(f"{rows}, got {triplets.dtype} {tuple(triplets.shape)}")
    if triplets.device != embeddings.device:
        raise ValueError(f"triplets must be on the embeddings' device {embeddings.device}, got {triplets.device}")
    return triplets, torch.ones(len(triplets), dtype=torch.bool, device=triplets.device)


def _masks(embeddings: Tensor, labels: Tensor, references: References | None) -> tuple[Tensor, Tensor]:
    if references is None:
        return pair_masks(labels)
    return reference_masks(embeddings @ references.embeddings.T, labels, references)


def _distances(embeddings: Tensor, references: References | None = None) -> Tensor:
    # No gradient passes here, so the fast Gram form will do.
    if references is not None:
        norms, others = (each.square().sum(1) for each in (embeddings, references.embeddings))
        return (norms[:, None] + others - 2 * embeddings @ references.embeddings.T).clamp_(min=0).sqrt_()
    gram = embeddings @ embeddings.T
    norms = gram.diagonal()
    return (norms[:, None] + norms - 2 * gram).clamp_(min=0).sqrt_()


def _log_inverse_density(distances: Tensor, dimension: int, lower_cutoff: float) -> Tensor:
    """Return log(1 / q(d)) up to a constant, q(d) ~ d^(D - 2) (1 - d^2 / 4)^((D - 3) / 2)."""
    if not 0 < lower_cutoff < 2:
        raise ValueError(f"lower_cutoff must lie in (0, 2), got {lower_cutoff}")
    # At d = 2, antipodal points, the density is 0: stay a rounding error below.
    distances = distances.clamp(lower_cutoff, 2 - 4 * torch.finfo(distances.dtype).eps)
    near = distances.log() * (2 - dimension)
    return near - (1 - 0.25 * distances.square()).log() * ((dimension - 3) / 2)


def _uniform(mask: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(*mask.shape, generator=generator, device=mask.device)


def _uniform_choice(keys: Tensor, mask: Tensor) -> Tensor:
    return keys.masked_fill(~mask, -1).argmax(dim=1)


def _triplets(
    chosen_positive: Tensor, chosen_negative: Tensor, positive: Tensor, negative: Tensor
) -> tuple[Tensor, Tensor]:
    anchor = torch.arange(len(positive), device=positive.device)
    triplets = torch.stack((anchor, chosen_positive, chosen_negative), dim=1)
    # A row without a positive or a negative chose something else.
    valid = positive.gather(1, triplets[:, 1:2]) & negative.gather(1, triplets[:, 2:])
    return triplets, valid.squeeze(1)
