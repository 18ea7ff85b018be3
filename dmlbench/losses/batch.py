"""What every loss asks of a batch: its checks, its precision, its positive and negative pairs."""

import math
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

ITSELF = 1e-5  # a reference more similar than 1 minus this is the embedding itself (XBM's official code)


class References(NamedTuple):
    """What a batch forms pairs with in place of itself, such as a memory of earlier batches.

    Attributes:
        embeddings: L2-normalised (M, D), of the batch's type.
        labels: (M,) int64.
    """

    embeddings: Tensor
    labels: Tensor


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value}")


def check_non_negative(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number of at least 0."""
    if not isinstance(value, Real) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, got {value}")


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless `value` is a whole number above 0."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number > 0, got {value}")


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `valid`."""
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, valid))}, got {value!r}")


def checked(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Check the shapes, types and devices of a batch; widen half-precision embeddings, and labels to int64.

    Nothing is read from the device: values are checked where they are used (`rows_of`, `nan_where_broken`).

    Args:
        embeddings: Float tensor (N, D), N >= 1.
        labels: Tensor (N,) of integers or truth values, on the same device.

    Returns:
        The embeddings (N, D) in float32, or in float64 if they were, and the labels (N,) in int64: of a narrower type
        they would index as a mask, or not at all.

    Raises:
        ValueError: If a shape, type or device is wrong.
    """
    if not isinstance(embeddings, Tensor) or not isinstance(labels, Tensor):
        given = f"{type(embeddings).__name__} and {type(labels).__name__}"
        raise ValueError(f"embeddings and labels must be tensors, got {given}")  # noqa: TRY004 - one kind for bad input
    if embeddings.ndim != 2 or len(embeddings) == 0 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be a float tensor (N, D) with N >= 1, got {embeddings.dtype} {tuple(embeddings.shape)}"
        )
    if labels.shape != embeddings.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"labels must be an integer tensor ({len(embeddings)},), one for each embedding, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    if labels.device != embeddings.device:
        raise ValueError(f"embeddings and labels must be on one device, got {embeddings.device} and {labels.device}")
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), labels.to(torch.int64)


def checked_references(
    embeddings: Tensor, references: Tensor | None, reference_labels: Tensor | None
) -> References | None:
    """Check the references of a batch as `checked` checks the batch.

    Args:
        embeddings: The checked batch (N, D).
        references: Float tensor (M, D), M >= 1, on the batch's device; None for pairs within the batch.
        reference_labels: Tensor (M,) of integers; None where there are no references.

    Raises:
        ValueError: If one of the two is missing, or a shape, type or device is wrong.
    """
    if references is None and reference_labels is None:
        return None
    if references is None or reference_labels is None:
        raise ValueError("references and reference_labels are given together")
    try:
        found = References(*checked(references, reference_labels))
    except ValueError as error:
        raise ValueError(f"references: {error}") from error
    if found.embeddings.shape[1:] != embeddings.shape[1:] or found.embeddings.device != embeddings.device:
        expected = f"{embeddings.shape[1]} dimensions on {embeddings.device}"
        given = f"{found.embeddings.shape[1]} on {found.embeddings.device}"
        raise ValueError(f"references must have the batch's {expected}, got {given}")
    return References(found.embeddings.to(embeddings.dtype), found.labels)


def nan_where_broken(loss: Tensor, embeddings: Tensor) -> Tensor:
    """The loss as it is, and NaN where an embedding is NaN or infinite, without leaving the device.

    A broken embedding has no valid pairs, and a mean over the others would hide it.
    """
    total = embeddings.detach().sum()
    return loss + (total - total)


def rows_of(table: Tensor, indices: Tensor, what: str) -> Tensor:
    """Rows (N, D) of a table (C, D) by their indices (N,) in [0, C).

    Raises:
        ValueError: If an index is out of range; on CUDA PyTorch's own assertion stops the process instead, for to look
            at it would make the host wait.
    """
    try:
        return functional.embedding(indices, table)
    except IndexError as error:
        raise ValueError(f"{what} must lie in [0, {len(table)})") from error


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mark the pairs of one class and the pairs of two.

    Args:
        labels: Integer tensor (N,).

    Returns:
        Two boolean tensors (N, N): positive pairs, without the diagonal, and negative pairs.
    """
    same = labels[:, None] == labels
    negative = ~same
    return same.fill_diagonal_(fill_value=False), negative


def reference_masks(similarities: Tensor, labels: Tensor, references: References) -> tuple[Tensor, Tensor]:
    """Mark the pairs of one class and the pairs of two between a batch and its references.

    A memory may hold the batch itself: a reference of the same class that is more similar than 1 - 1e-5 is left out,
    as in the official code of XBM (Wang et al., CVPR 2020).

    Args:
        similarities: Of embeddings to references (N, M).
        labels: Integer tensor (N,).
        references: M of them.

    Returns:
        Two boolean tensors (N, M): positive pairs, and negative pairs.
    """
    same = labels[:, None] == references.labels
    return same & (similarities < 1 - ITSELF), ~same


def triplet_rows(triplets: Tensor, embeddings: Tensor, references: References | None) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, positives and negatives (n, D) of triplets (n, 3); with references, the latter two are of those.

    Raises:
        ValueError: If an index is out of range, as in `rows_of`.
    """
    if references is None:
        anchor, positive, negative = rows_of(embeddings, triplets, "triplets").unbind(1)
    else:
        anchor = rows_of(embeddings, triplets[:, 0], "triplets")
        positive, negative = rows_of(references.embeddings, triplets[:, 1:], "triplets").unbind(1)
    return anchor, positive, negative


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average `values` (N,) over `mask` (N,) without leaving the device; 0 where the mask is empty."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)
