"""Cross-batch memory (XBM): the batch also forms pairs with the embeddings of earlier batches.

Wang, Zhang, Huang, Scott, "Cross-Batch Memory for Embedding Learning", CVPR 2020, arXiv 1912.06798.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor

from dmlbench.modifiers.base import BuildContext, ForwardOutput, Modifier, Network, StepContext

LARGEST = 10_000_000  # a mistyped number would take all memory before it fails


class XBM(Modifier):
    """lambda times the base's loss of the batch with a memory of embeddings, added to that of the batch with itself.

    As in the official code, the memory is filled and used from one step on, holds the batch itself when its loss is
    computed, and a batch that would pass its end takes the last places, after which the first are overwritten. There
    the memory counts as full while the label in its last place is not 0; here once it was filled.

    Args:
        lambda_: The weight; with 0 there is no memory, and the method is its base bit for bit.
        size: Embeddings that the memory holds, at least a batch.
        start: Steps before it begins, >= 0.

    Raises:
        ValueError: If a setting is out of range.
    """

    references = True
    embeddings: Tensor
    labels: Tensor

    def __init__(
        self,
        *,
        lambda_: Annotated[float, Ge(0)] = 1.0,
        size: Annotated[int, Ge(1), Le(10_000_000)],
        start: Annotated[int, Ge(0)],
    ) -> None:
        super().__init__(lambda_)
        if not 1 <= size <= LARGEST:
            raise ValueError(f"size must be from 1 to {LARGEST}, got {size}")
        if start < 0:
            raise ValueError(f"start must be at least 0, got {start}")
        self.size, self.start = size, start
        self._steps = self._next = self._held = 0

    def build(self, context: BuildContext) -> list[Network]:
        """Make the empty memory."""
        if self.lambda_:
            self.register_buffer("embeddings", torch.zeros(self.size, context.embedding_dim, device=context.device))
            self.register_buffer("labels", torch.zeros(self.size, dtype=torch.int64, device=context.device))
        return [context.base]

    def check_training(self, steps: int, batch_size: int) -> None:
        """Raise ValueError where the memory holds no batch, or is never used."""
        if self.lambda_ and self.size < batch_size:
            raise ValueError(f"size must be at least a batch, {batch_size}, got {self.size}")
        if self.lambda_ and self.start >= steps:
            raise ValueError(f"start must be below the {steps} steps of the training, got {self.start}")

    def loss(self, outputs: Sequence[ForwardOutput], context: StepContext) -> Sequence[Tensor] | None:
        """Take the batch into the memory, and return the base's weighted loss of the batch with it."""
        self._steps += 1
        if not self.lambda_ or self._steps <= self.start:
            return None
        own = outputs[0].embeddings
        self.remember(own.detach(), context.labels)
        return [self.lambda_ * context.ranking_loss(context.criteria[0], own, references=self.held())]

    def remember(self, embeddings: Tensor, labels: Tensor) -> None:
        """Take embeddings (B, D) with their labels (B,) in the places of the oldest; B is at most the size."""
        count = len(labels)
        passes = self._next + count > self.size
        first = self.size - count if passes else self._next
        self.embeddings[first : first + count] = embeddings
        self.labels[first : first + count] = labels
        self._held = max(self._held, first + count)
        self._next = 0 if passes else first + count

    def held(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings (M, D) in the memory and their labels (M,)."""
        return self.embeddings[: self._held], self.labels[: self._held]

    def get_extra_state(self) -> tuple[int, int, int]:
        """Return the steps so far, the next place and how many are taken, for the `state_dict`."""
        return self._steps, self._next, self._held

    def set_extra_state(self, state: Any) -> None:  # noqa: ANN401 - torch's signature
        """Take back what `get_extra_state` gave."""
        self._steps, self._next, self._held = map(int, state)
