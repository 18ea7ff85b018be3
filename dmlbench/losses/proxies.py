"""What the softmax-like losses with learned proxies share: their checks, and the cross-entropy over classes."""

import torch
from torch import Tensor
from torch.nn import functional

from dmlbench.losses.batch import check_count

NO_LABEL = torch.iinfo(torch.int64).min  # PyTorch's -100 would silently ignore a row of that label


def check_sizes(num_classes: int, embedding_dim: int) -> None:
    """Raise ValueError unless both are whole numbers above 0."""
    check_count("num_classes", num_classes)
    check_count("embedding_dim", embedding_dim)


def check_dimensions(embeddings: Tensor, proxies: Tensor) -> None:
    """Raise ValueError unless embeddings (N, D) and proxies (C, D) have the same number of dimensions."""
    if embeddings.shape[1] != proxies.shape[1]:
        raise ValueError(f"embeddings must have {proxies.shape[1]} dimensions, got {embeddings.shape[1]}")


def own_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, 1) of the rows' own classes, of logits (N, C) and labels (N,) in [0, C).

    Raises:
        ValueError: If a label is out of range; on CUDA PyTorch's own assertion stops the process instead.
    """
    try:
        return logits.gather(1, labels[:, None])
    except RuntimeError as error:
        refuse_labels(error, logits.shape[1])
        raise


def add_to_own_(logits: Tensor, labels: Tensor, value: float) -> Tensor:
    """Add a number to the logits (N, C) of the rows' own classes (N,), in place.

    Raises:
        ValueError: If a label is out of range; on CUDA PyTorch's own assertion stops the process instead.
    """
    try:
        return logits.scatter_add_(1, labels[:, None], logits.new_full((len(logits), 1), value))
    except RuntimeError as error:
        refuse_labels(error, logits.shape[1])
        raise


def class_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, a scalar, of logits (N, C) and labels (N,) in [0, C).

    Raises:
        ValueError: If a label is out of range; on CUDA PyTorch's own assertion stops the process instead.
    """
    try:
        return functional.cross_entropy(logits, labels, ignore_index=NO_LABEL)
    except IndexError as error:
        refuse_labels(error, logits.shape[1])
        raise


def refuse_labels(error: Exception, num_classes: int) -> None:
    """Raise ValueError where an error of an indexing by labels says that one is not in [0, num_classes).

    PyTorch's RuntimeError may also be a lack of memory, or an earlier operation's on CUDA.
    """
    if "out of bounds" in str(error):
        raise ValueError(f"labels must lie in [0, {num_classes})") from error
