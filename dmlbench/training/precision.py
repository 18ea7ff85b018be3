"""Under which precision networks run: a protocol's setting."""

import torch

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, name: str) -> torch.autocast:
    """The context of a forward pass on a device; `none` changes nothing."""
    dtype = AUTOCAST.get(name)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
