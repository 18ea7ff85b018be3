"""Which backbones CUDA cannot train under deterministic algorithms: found on a CPU, before any cell."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dmlbench.errors import UserError
from dmlbench.specs.protocol_spec import InputSpec

# Operations for which `torch.use_deterministic_algorithms` raises on CUDA (see its documentation), without `_backward`.
# Those that raise in both directions are in the second set.
BACKWARD = {
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa",
    "adaptive_max_pool2d", "avg_pool3d", "fractional_max_pool2d", "fractional_max_pool3d", "grid_sampler_2d",
    "grid_sampler_3d", "max_pool3d_with_indices", "reflection_pad1d", "reflection_pad3d", "upsample_bicubic2d",
    "upsample_linear1d",
}  # fmt: skip
FORWARD = {"histc"}
RAISES = FORWARD | {f"{name}_backward" for name in BACKWARD}


class _Operations(TorchDispatchMode):
    """Names of the operations that ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def check_deterministic(name: str, backbone: nn.Module, image: InputSpec) -> None:
    """Take the gradient of two images' features on the CPU, and look at what that takes.

    Args:
        name: As the protocol has it.
        backbone: On the CPU; its weights stay, and its gradients and the statistics of its BatchNorm do not.
        image: Their size.

    Raises:
        UserError: for a backbone with an operation that CUDA has no deterministic algorithm for.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), _Operations() as operations:
        features: Tensor = backbone(torch.rand(2, image.channels, image.size, image.size))
        features.sum().backward()
    if found := sorted(operations.seen & RAISES):
        what = f"model.backbone: {name} cannot be trained on CUDA with training.deterministic: true"
        raise UserError(f"{what} ({', '.join(found)})", hint="--set training.deterministic=false, or another backbone")
