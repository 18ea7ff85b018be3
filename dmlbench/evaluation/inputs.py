"""What every metric accepts: embeddings of any scale and their class labels."""

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray


def unit_embeddings(embeddings: Array, labels: Array, device: str | None = None) -> tuple[Tensor, Tensor]:
    """Check the input of a metric and bring every embedding to unit length.

    Float64, because only then are equal similarities recognised as equal: in float32 the same pair of rows
    gets different last bits from different matrix-product kernels, tile shapes and thread counts. A row of
    zeros has no direction and stays zero, at similarity 0 to everything.

    Args:
        embeddings: (N, D), any floating-point type and scale; a tensor or a numpy array.
        labels: (N,), integers.
        device: Where the work is to be done; None for the embeddings' device.

    Returns:
        The unit embeddings, (N, D) float64, and the labels, (N,) int64, on that device (on the CPU where it knows
        no float64).

    Raises:
        ValueError: If the shapes do not match, the embeddings are not finite, or the labels are not integers.
    """
    embeddings, labels = torch.as_tensor(embeddings, device=device), torch.as_tensor(labels, device=device)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or 0 in embeddings.shape:
        shapes = f"{tuple(embeddings.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"embeddings and labels must have the shapes (N, D) and (N,), N and D > 0, got {shapes}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    exact = torch.device("cpu") if embeddings.device.type == "mps" else embeddings.device
    vectors = embeddings.detach().to(exact).double()
    if not vectors.isfinite().all():
        broken = int((~vectors.isfinite()).any(dim=1).sum())
        raise ValueError(f"embeddings must be finite, got NaN or infinity in {broken} of {len(vectors)} rows")
    return torch.nn.functional.normalize(vectors, dim=1, eps=1e-30), labels.to(exact, torch.int64)
