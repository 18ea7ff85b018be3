"""What a call asks of a device, seen on a CPU: its operations, and what makes the host wait for their values."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READING = {
    "_local_scalar_dense", "_linalg_check_errors", "bincount", "equal", "histc", "is_nonzero", "masked_select",
    "multinomial", "nonzero", "repeat_interleave", "unique_consecutive", "unique_dim", "_unique", "_unique2",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
METHODS = {"cpu", "numpy", "tolist", "__array__"}  # `item`, `bool` and the like leave an operation


class Copies(TorchFunctionMode):
    """Counts the methods that copy to the host; of a tensor that is there already they leave no operation to see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        places = [str(part) for part in (*args[1:], *(kwargs or {}).values()) if isinstance(part, str | torch.device)]
        if name in METHODS or (name == "to" and any(place.startswith("cpu") for place in places)):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class Waits(TorchDispatchMode):
    """Counts the operations whose course depends on values, by name; indexing by a mask looks for its true places."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READING or (name in INDEXING and any(self._is_mask(part) for part in args[1])):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _is_mask(part) -> bool:
        return part is not None and part.dtype in (torch.bool, torch.uint8)


class Operations(TorchDispatchMode):
    """Counts ATen operations, views among them, as they reach a backend after autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def waits(call: Callable[[], object]) -> Counter[str]:
    """How often a call makes the host wait, by operation and method."""
    with Copies() as copies, Waits() as found:
        call()
    return copies.seen + found.seen


def operations(call: Callable[[], object]) -> Counter[str]:
    """A call's ATen operations, by name; those of its backward pass too."""
    with Operations() as found:
        call()
    return found.seen
