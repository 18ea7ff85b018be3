"""One training on several devices: each rank forwards its part of a batch, and all compute the whole batch's loss.

Every rank is a process with all networks and the same random streams. The features of the parts are gathered, with
their gradient, and everything after them is computed alike on every rank: heads, losses with what they learn, mining,
modifiers. Then all gradients are averaged over the ranks. What every rank computes is its own average. What passes
through a part counts once for each rank on its way back, so that the average of the parts is their sum. The gradient is
that of one process with the whole batch, but for rounding, and weights stay equal on all ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """Which of the processes of a training this is; with one process nothing is split, gathered or averaged.

    With more than one, torch's default process group must be there when batches are trained.

    Args:
        rank: This process's, counted from 0.
        size: How many there are; batches must be multiples of it.
    """

    rank: int = 0
    size: int = 1

    def part(self, batch_size: int) -> slice:
        """Which images of a batch this rank forwards."""
        length = batch_size // self.size
        return slice(self.rank * length, (self.rank + 1) * length)

    def own(self, images: Tensor, batch_size: int) -> Tensor:
        """Return this rank's part (B / size, C, H, W) of a batch of B images, which may be that part already."""
        return images[self.part(batch_size)] if self.size > 1 and len(images) == batch_size else images

    def gather(self, part: Tensor) -> Tensor:
        """Return the rows (B, D) of all ranks' parts (B / size, D), in the batch's order, with their gradient."""
        if self.size == 1:
            return part
        gathered: Tensor = _Gather.apply(part, self.rank, self.size)
        return gathered

    def embed(self, network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
        """Return what a network gives for a batch, of which `images` may be this rank's part."""
        return self.gather(network(self.own(images, batch_size)))

    @torch.no_grad()
    def average(self, gradients: Sequence[Tensor]) -> None:
        """Average gradients over the ranks, in place."""
        for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
            own = [gradient for gradient in gradients if gradient.dtype == dtype]
            flat = torch.cat([gradient.reshape(-1) for gradient in own])  # one exchange for all of them
            dist.all_reduce(flat)
            flat.div_(self.size)
            for gradient, averaged in zip(own, flat.split([gradient.numel() for gradient in own]), strict=True):
                gradient.copy_(averaged.view(gradient.shape))


ALONE = Ranks()


class _Gather(torch.autograd.Function):
    """Rows of all ranks; on the way back a rank's own rows, once for each rank that computes the same loss of them."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, rank: int, size: int) -> Tensor:  # noqa: ANN401 - torch's signature
        ctx.rows, ctx.size = slice(rank * len(part), (rank + 1) * len(part)), size
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(size)]
        dist.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return gradient[ctx.rows] * ctx.size, None, None
