"""What every metric accepts: embeddings of any scale and their class labels."""

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray


# Lengths that float64 can square: beyond, a row is first brought near 1 by its largest component.
SMALLEST, LARGEST = 1e-30, 1e150


def unit_embeddings(embeddings: Array, labels: Array, device: str | None = None) -> tuple[Tensor, Tensor]:
    """Check the input of a metric and bring every embedding to unit length.

    Float64, because only then are equal similarities recognised as equal: in float32 the same pair of rows
    gets different last bits from different matrix-product kernels, tile shapes and thread counts. A row of
    zeros has no direction and stays zero, at similarity 0 to everything; however short another is, it has one.

    Args:
        embeddings: (N, D), any floating-point type and scale; a tensor or a numpy array.
        labels: (N,), integers or truth values; on any device.
        device: Where the work is to be done; None for the embeddings' device.

    Returns:
        The unit embeddings, (N, D) float64, and the labels, (N,) int64, on that device (on the CPU where it knows
        no float64).

    Raises:
        ValueError: If the shapes do not match, the embeddings are no floating-point numbers or not finite, or the
            labels are not integers.
    """
    embeddings, labels = as_tensor("embeddings", embeddings, device), as_tensor("labels", labels, device)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or 0 in embeddings.shape:
        shapes = f"{tuple(embeddings.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"embeddings and labels must have the shapes (N, D) and (N,), N and D > 0, got {shapes}")
    if not embeddings.is_floating_point():
        raise ValueError(f"embeddings must be floating-point numbers, got {embeddings.dtype}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    exact = torch.device("cpu") if embeddings.device.type == "mps" else embeddings.device
    vectors = embeddings.detach().to(exact).double()
    if not vectors.isfinite().all():
        broken = int((~vectors.isfinite()).any(dim=1).sum())
        raise ValueError(f"embeddings must be finite, got NaN or infinity in {broken} of {len(vectors)} rows")
    return unit_length(vectors), labels.to(exact, torch.int64)


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors (..., D) float64 of any finite length at unit length; those of zeros stay zero."""
    lengths = vectors.norm(dim=-1, keepdim=True)
    extreme = (lengths < SMALLEST) | (lengths > LARGEST)
    if extreme.any():
        largest = vectors.abs().amax(dim=-1, keepdim=True)
        vectors = torch.where(extreme & (largest > 0), vectors / largest, vectors)
    return torch.nn.functional.normalize(vectors, dim=-1, eps=SMALLEST)


def as_tensor(name: str, values: Array, device: str | None = None) -> Tensor:
    """A tensor of the values; raises ValueError, with their type, where they are none that a tensor can hold."""
    try:
        return torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        hint = "; number the classes, e.g. numpy.unique(labels, return_inverse=True)[1]" if name == "labels" else ""
        raise ValueError(f"{name} must be a tensor or an array of numbers, got {kind}{hint}") from error
