"""An emulated GPU: on the null GPU, whose memory is the host's, the CPU's kernels compute every operation's values.

Tensors or generators of two devices in one operation raise, as on a GPU; CPU tensors without dimensions may enter, and
CPU tensors of indices.
"""

import ctypes
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

# What changes no values: the null GPU's own way is right.
AS_IT_IS = {"record_stream", "pin_memory", "_pin_memory", "is_pinned", "set_", "detach_", "empty", "empty_strided"}
AS_IT_IS |= {"new_empty", "new_empty_strided", "empty_like"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {"copy_", "_copy_from"}


def install() -> None:
    """Compute values from now on, in this process."""
    torch.backends.cudnn.enabled = False  # its BatchNorm and pooling are other operations than the CPU's
    dist.init_process_group = partial(_with_gloo, dist.init_process_group)
    _Emulation().__enter__()


def _with_gloo(init: Callable[..., None], backend: str, **options: Any) -> None:
    """Let gloo exchange what NCCL would: it copies through the host's memory."""
    init("gloo" if backend == "nccl" else backend, **options)


class _Emulation(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if _on_gpu(tensor)]
        asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if name in AS_IT_IS or not (ours or (asked and asked.type == "cuda")):
            return func(*args, **kwargs)
        if name == "_to_copy":
            return _converted(args[0], asked, kwargs)
        if name in COPIES:
            func(*tree_map(_on_host, args), **tree_map(_on_host, kwargs))
            return args[0]
        devices = {tensor.device for tensor in tensors if tensor.dim()}
        if len(devices) > 1 and name not in INDEXING:
            raise RuntimeError(f"{func}: tensors on {', '.join(sorted(map(str, devices)))}")
        returns = func._schema.returns
        if not func._schema.is_mutable and any(own.alias_info and not own.alias_info.is_write for own in returns):
            return func(*args, **kwargs)  # a view
        return _computed(func, args, kwargs, ours[0].device if ours else asked)


class Launching(TorchDispatchMode):
    """Lets every operation launch what it launches on the null GPU, before the CPU's kernels compute its values.

    So the path of what depends on values is counted. Operations that read a size from the GPU's memory find a number
    there that nothing has computed, and may stop at it: what they would have launched after that is not counted.

    Args:
        reading: Names of the operations that may stop.
    """

    def __init__(self, reading: set[str]) -> None:
        super().__init__()
        self.reading = reading

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(map(_on_gpu, tree_leaves((args, kwargs)))) or "cuda" in str(kwargs.get("device")):
            try:
                with _disable_current_modes():
                    func(*args, **kwargs)
            except RuntimeError:
                if func.overloadpacket.__name__ not in self.reading:
                    raise
        return func(*args, **kwargs)


def _on_gpu(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.device.type == "cuda"


def _on_host(leaf: Any) -> Any:
    """A CPU tensor on the same memory as one of the GPU; everything else as it is."""
    if not _on_gpu(leaf):
        return leaf
    storage = leaf.untyped_storage()
    if storage.nbytes() == 0 or storage.data_ptr() == 0:
        return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    flat = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=leaf.dtype).set_(flat, leaf.storage_offset(), leaf.size(), leaf.stride())


def _uploaded(host: Tensor, device: torch.device) -> Tensor:
    found = torch.empty_strided(host.size(), host.stride(), dtype=host.dtype, device=device)
    if host.numel():
        _on_host(found).copy_(host)
    return found


def _converted(source: Tensor, asked: torch.device | None, kwargs: dict[str, Any]) -> Tensor:
    target = asked or source.device
    kept = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking", "pin_memory")}
    found = torch.ops.aten._to_copy.default(_on_host(source), **kept)
    return _uploaded(found, target) if target.type == "cuda" else found


def _computed(func: Any, args: Any, kwargs: dict[str, Any], device: torch.device) -> Any:
    host = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if "device" in host:
        host["device"] = torch.device("cpu")
    if "generator" in [argument.name for argument in func._schema.arguments]:
        host["generator"] = _generator(func, kwargs.get("generator"), device)
    host_args, host = tree_map(_on_host, (args, host))
    result = func(*host_args, **host)
    if func.overloadpacket.__name__ == "_local_scalar_dense":
        return result
    given = dict(zip(map(id, tree_leaves((host_args, host))), tree_leaves((args, kwargs | host)), strict=False))

    def back(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return given[id(leaf)] if func._schema.is_mutable and id(leaf) in given else _uploaded(leaf, device)

    return tree_map(back, result)


def _generator(func: Any, generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """A CPU generator whose stream is a function of the GPU's, which moves on."""
    own = generator or torch.cuda.default_generators[device.index or 0]
    if own.device.type != "cuda":
        raise RuntimeError(f"{func}: a generator of {own.device} for {device}")
    digest = hashlib.sha256(bytes(own.get_state().tolist())).digest()
    own.set_offset(own.get_offset() + 4096)
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
