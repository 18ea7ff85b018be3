"""Which backbones give an image's features whatever else is in the batch, so that a batch can be forwarded in parts."""

import torch
from torch import nn

from dmlbench.errors import UserError
from dmlbench.models.model import EmbeddingModel
from dmlbench.specs.protocol_spec import InputSpec

OPTION = "--gpus-per-cell"


def live_batchnorm(module: nn.Module) -> bool:
    """Whether a BatchNorm of a network that is in training mode uses the batch's statistics."""
    layers = (own for own in module.modules() if isinstance(own, nn.modules.batchnorm._BatchNorm))
    return any(own.training for own in layers)


@torch.no_grad()
def check_separable(name: str, model: EmbeddingModel, image: InputSpec) -> None:
    """Check that several GPUs, each with a part of the batch, train a network as one with the whole batch does.

    Args:
        name: The backbone's, as the protocol has it.
        model: It is left in training mode.
        image: The size of its images.

    Raises:
        UserError: for a backbone whose BatchNorm uses the batch's statistics, or that draws random numbers.
    """
    if live_batchnorm(model.train().backbone):
        said = f"the BatchNorm of {name} would use the statistics of each GPU's part of a batch"
        raise UserError(f"{OPTION}: {said}", hint="--set model.freeze_batchnorm=true, or leave it out")
    place = next(model.parameters()).device
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices):
        before = _streams(devices)
        model.backbone(torch.zeros(2, image.channels, image.size, image.size, device=place))
        drawn = any(not torch.equal(one, other) for one, other in zip(before, _streams(devices), strict=True))
    if drawn:
        said = f"{name} draws random numbers in training, such as dropout, and each GPU would draw its own"
        raise UserError(f"{OPTION}: {said}", hint="switch that off by model.kwargs, or leave the option out")


def _streams(devices: list[torch.device]) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
