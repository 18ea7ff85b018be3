"""The floating-point operations of a step: torch's counter, and formulas where it has none or a wrong one."""

import math
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = Sequence[int]
_aten = torch.ops.aten


def operations(step: Callable[[], object]) -> int:
    """Take a step; return its floating-point operations in convolutions, matrix products and attention."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a whole block in evaluation mode as one operation is not counted
    try:
        with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            step()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


def _convolution_backward(gradient: Shape, images: Shape, weight: Shape, *settings: object, **_: object) -> int:
    """Each of the two gradients, by images and by weight, takes as many operations as the convolution.

    Torch's formula of the second leaves out groups: a step of MobileNetV1 would have 3.5 times its operations.
    """
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, wanted = settings
    positions = math.prod((images if transposed else gradient)[2:])
    return 2 * images[0] * positions * math.prod(weight) * sum(wanted[:2])  # type: ignore[index]


def _attention(queries: Shape, keys: Shape, values: Shape, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(queries, keys, values))


def _attention_backward(gradient: Shape, queries: Shape, keys: Shape, values: Shape, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(gradient, queries, keys, values))


_FORMULAS = {
    _aten.convolution_backward: _convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
