"""Relational distillation from a moving average of the network's own weights.

The definition is that of the public repository CausalityHQ/sfora, where it is called EMA-teacher relational
distillation; no paper was found.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from dmlbench.modifiers.base import BuildContext, ForwardOutput, Modifier, Network, StepContext
from dmlbench.modifiers.teachers import MovingAverage, check_temperature, similarities


class EMA(Modifier):
    """Each image's distribution over the others of the batch is drawn to that of a moving average of the network.

    Unlike PSD's, the loss is a cross-entropy without the factor tau^2, leaves the diagonal out, and has its full weight
    from the first step on. The average is in eval mode, as there.

    Args:
        lambda_: The weight; with 0 there is no average, and the method is its base bit for bit.
        tau: Temperature of both, > 0.
        momentum: Of the average, in [0, 1).

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        *,
        lambda_: Annotated[float, Ge(0)] = 1.0,
        tau: Annotated[float, Gt(0)],
        momentum: Annotated[float, Ge(0), Lt(1)],
    ) -> None:
        super().__init__(lambda_)
        check_temperature("tau", tau)
        self.tau, self.momentum = tau, momentum
        self.average: MovingAverage | None = None

    def build(self, context: BuildContext) -> list[Network]:
        """Make the average, a copy of the network."""
        if self.lambda_:
            self.average = MovingAverage(context.base.model, self.momentum, "eval", compiled=context.teacher.compiled)
        return [context.base]

    def loss(self, outputs: Sequence[ForwardOutput], context: StepContext) -> Sequence[Tensor] | None:
        """Return the weighted cross-entropy."""
        own = outputs[0].embeddings
        if self.average is None:
            return None
        with context.phase("teacher"), torch.no_grad(), context.autocast():
            teacher = self.average.embeddings(context, own)
        return [self.lambda_ * neighbourhood_loss(own, teacher, self.tau)]

    def after_step(self, outputs: Sequence[ForwardOutput], context: StepContext) -> None:
        """Let the average move towards the network."""
        if self.average is not None:
            with context.phase("teacher"), torch.no_grad():
                self.average.after_step(context, outputs[0].embeddings)


def neighbourhood_loss(embeddings: Tensor, teacher_embeddings: Tensor, tau: float) -> Tensor:
    """Return the cross-entropy of each image's softmax of similarities to the others with the teacher's.

    Args:
        embeddings: The student's L2-normalised float tensor (N, D).
        teacher_embeddings: The teacher's (N, D'); they get no gradient.
        tau: Temperature of both, > 0.

    Returns:
        A differentiable scalar, averaged over the rows; 0 for a single image.

    Raises:
        ValueError: If the temperature or a shape is wrong.
    """
    check_temperature("tau", tau)
    if len(embeddings) != len(teacher_embeddings):
        raise ValueError(f"both need an embedding for each image, got {len(embeddings)} and {len(teacher_embeddings)}")
    student, teacher = (_without_itself(similarities(each) / tau) for each in (embeddings, teacher_embeddings.detach()))
    return -(teacher.softmax(dim=1) * student.log_softmax(dim=1)).sum(dim=1).mean()


def _without_itself(logits: Tensor) -> Tensor:
    """Logits (N, N) whose diagonal weighs nothing; finite, for 0 times infinity is NaN."""
    return logits.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -1e9)
