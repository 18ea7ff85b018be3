"""The backbones a network can have: conv4, and those of timm and torchvision, with weights of a file or by name.

`model.kwargs` may hold what shapes the network. A backbone's library takes far more: files of weights and of pickles,
addresses, caches, wrappers. Those would load what the hash does not know, or run code, so a key counts only where the
constructor of the class that is built has it.
"""

import difflib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from torch import Tensor, nn

from dmlbench.errors import UserError
from dmlbench.models.pretrained import OFFLINE, check_name, is_file, kept_as
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec

TIMM_NAME = re.compile(r"\w+(\.[\w-]+)?")
BATCHNORM = ("bn_eps", "bn_momentum")  # of timm's EfficientNets: parameters of their layers


class AverageMaxPool(nn.Module):
    """Sum of global average and global maximum pooling, (B, C, H, W) -> (B, C, 1, 1) (Kim et al. 2020, code).

    The maximum is a reduction over a flattened map because adaptive pooling has no deterministic CUDA gradient.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool a feature map."""
        flat = features.flatten(2)
        return (flat.mean(2) + flat.amax(2))[:, :, None, None]


class MaxPool(nn.Module):
    """Global maximum pooling, (B, C, H, W) -> (B, C, 1, 1), by a reduction: see `AverageMaxPool`."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool a feature map."""
        return features.flatten(2).amax(2)[:, :, None, None]


POOLS: dict[str, Callable[[], nn.Module]] = {
    "average": lambda: nn.AdaptiveAvgPool2d(1),
    "average+max": AverageMaxPool,
    "max": MaxPool,
}


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution, BatchNorm, ReLU and 2 x 2 max pooling, 64 channels each."""

    def __init__(self, channels: int, pool: nn.Module, width: int = 64) -> None:
        super().__init__()
        sizes = [channels, width, width, width, width]
        self.blocks = nn.Sequential(*(_block(a, b) for a, b in pairwise(sizes)))
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images -> (B, 64) features."""
        features: Tensor = self.pool(self.blocks(images))
        return features.flatten(1)


def _block(channels: int, width: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2))


def conv4_backbone(_: str, spec: ModelSpec, image: InputSpec, *, download: bool) -> nn.Module:  # noqa: ARG001 - all alike
    """Build conv4; raises UserError, as the other two do."""
    if spec.pooling == "token":
        raise UserError("model.pooling: conv4 has no class token", hint=f"valid: {', '.join(POOLS)}")
    pool = POOLS[spec.pooling]()
    if image.size < 16:
        raise UserError(f"input.size: conv4 halves the image four times and needs 16 px, not {image.size}")
    check_name(spec, [])
    check_kwargs(spec, Conv4)
    try:
        backbone = Conv4(image.channels, pool, **spec.kwargs)  # type: ignore[arg-type]
    except (TypeError, RuntimeError) as error:
        raise UserError(f"model.kwargs: conv4 does not take {spec.kwargs} ({error})", hint="valid: width") from error
    if spec.weights:
        _load(backbone, spec.weights, ignore="")
    return backbone


def timm_backbone(name: str, spec: ModelSpec, image: InputSpec, *, download: bool) -> nn.Module:
    """Build a network of timm without its classifier."""
    import timm
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    if not TIMM_NAME.fullmatch(name) or not timm.is_model(name):
        raise _unknown_backbone("timm", name, timm.list_models())
    check_name(spec, ["pretrained"])
    if spec.kwargs:
        _check_timm_kwargs(name, spec)
    pooled = {"average": "avg", "average+max": "avgmax"}.get(spec.pooling, spec.pooling)
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": image.channels, "global_pool": pooled, **spec.kwargs}
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=download and spec.weights == "pretrained", **kwargs)
    except Exception as error:  # whatever a library's constructor and its download raise
        raise _not_built("timm", name, spec, error) from error
    if spec.weights and is_file(spec.weights):
        classifier = getattr(backbone, "pretrained_cfg", {}).get("classifier") or "classifier"
        _load(backbone, spec.weights, ignore=f"{classifier}.")
    for module in backbone.modules() if pooled in ("max", "avgmax") else ():
        if isinstance(module, SelectAdaptivePool2d):
            pool = MaxPool() if pooled == "max" else _HalfSum()  # see AverageMaxPool
            module.pool = pool  # type: ignore[assignment]  # timm annotates what stands for no pooling
    # timm's avgmax is the mean of average and maximum; the published pooling is their sum.
    return nn.Sequential(backbone, _Double()) if spec.pooling == "average+max" else backbone


def _check_timm_kwargs(name: str, spec: ModelSpec) -> None:
    import timm
    from timm.models import build_model_with_cfg, model_entrypoint

    entry = model_entrypoint(name)
    network = returned_class(entry)
    if network is None:
        with torch.random.fork_rng(devices=[]):  # the weights are drawn from the stream as it is
            network = type(timm.create_model(name))
    also = BATCHNORM if hasattr(sys.modules[entry.__module__], "resolve_bn_args") else ()
    never = {*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    check_kwargs(spec, network, also=also, never=never)


def torchvision_backbone(name: str, spec: ModelSpec, image: InputSpec, *, download: bool) -> nn.Module:
    """Build a classification network of torchvision without its classifier."""
    from torchvision import models

    if image.channels != 3:
        raise UserError(f"input.channels: torchvision:{name} takes 3 channels, not {image.channels}")
    # Of the classification networks: those of other tasks are built from several, with weights by default.
    if name not in models.list_models(module=models):
        raise _unknown_backbone("torchvision", name, models.list_models(module=models))
    check_name(spec, [weights.name for weights in models.get_model_weights(name)])
    check_kwargs(spec, returned_class(models.get_model_builder(name)) or nn.Module)
    local = spec.weights if spec.weights and is_file(spec.weights) else None
    named = spec.weights if download and not local else None
    try:
        backbone: nn.Module = models.get_model(name, weights=named, **spec.kwargs)
    except Exception as error:  # whatever a library's constructor and its download raise
        raise _not_built("torchvision", name, spec, error) from error
    classifier = next((part for part in ("fc", "classifier", "heads", "head") if hasattr(backbone, part)), None)
    if classifier is None:
        raise UserError(f"model.backbone: torchvision:{name} has no classifier to replace", hint="use timm:NAME")
    if local:
        _load(backbone, local, ignore=f"{classifier}.")
    setattr(backbone, classifier, nn.Identity())
    _pool_of_torchvision(backbone, name, spec)
    return backbone


def _pool_of_torchvision(backbone: nn.Module, name: str, spec: ModelSpec) -> None:
    if spec.pooling == "token":
        if not isinstance(getattr(backbone, "class_token", None), nn.Parameter):
            raise UserError(f"model.pooling: torchvision:{name} has no class token", hint=f"valid: {', '.join(POOLS)}")
    elif spec.pooling == "average" and isinstance(getattr(backbone, "class_token", None), nn.Parameter):
        raise UserError(f"model.pooling: torchvision:{name} gives its class token", hint="use token")
    elif spec.pooling != "average":
        if not isinstance(getattr(backbone, "avgpool", None), nn.AdaptiveAvgPool2d):
            raise UserError(f"model.pooling: torchvision:{name} does not end in average pooling", hint="use average")
        backbone.avgpool = POOLS[spec.pooling]()


def _not_built(source: str, name: str, spec: ModelSpec, error: Exception) -> UserError:
    """That a library failed: at its download where it has one, else with these arguments."""
    if spec.weights and not is_file(spec.weights):
        what = f"model.weights: {source} cannot build {name} with weights {spec.weights} ({reason_of(error)})"
        return UserError(what, hint=f"{OFFLINE}; the file is {kept_as(spec)}")
    given = f" with {spec.kwargs}" if spec.kwargs else ""
    return UserError(f"model: {source} cannot build {name}{given} ({reason_of(error)})")


def reason_of(error: Exception) -> str:
    """The first line of what a library says, and no more of it than can be read."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    return said if len(said) <= 200 else f"{said[:199]}…"


def _unknown_backbone(source: str, name: str, names: Sequence[str]) -> UserError:
    """The nearest names only: each library has hundreds."""
    near = difflib.get_close_matches(name, names, n=5)
    hint = f"did you mean {', '.join(near)}?" if near else f"see {source}'s list_models()"
    return UserError(f"model.backbone: unknown {source} model {name!r}", hint=hint)


class _HalfSum(AverageMaxPool):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) / 2


class _Double(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return 2 * features


def _load(backbone: nn.Module, weights: str, ignore: str) -> None:
    """Load a local file strictly; only the classifier that was taken off may be left over."""
    found, expected = read_weights(Path(weights)), backbone.state_dict()
    state = {key: value.float() if value.is_floating_point() else value for key, value in found.items()}
    alone = [key for key in expected if key not in state] + [key for key in state if key not in expected]
    wrong = [key for key in alone if not (ignore and key.startswith(ignore))]
    wrong += [key for key in expected if key in state and expected[key].shape != state[key].shape]
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise UserError(f"{weights}: model.weights: does not fit the backbone ({shown})")
    backbone.load_state_dict(state, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from `.safetensors` or `.pth` without unpickling code; raises UserError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, ImportError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a readable weights file ({reason})") from error
    except Exception as error:  # torch raises pickle's own UnpicklingError for foreign content
        raise UserError(f"{path}: not a weights file that loads without code ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: must hold a mapping of names to tensors")
    return state


# What the protocol gives a constructor by settings of its own.
ELSEWHERE = {
    "num_classes": "the head has model.embedding_dim",
    "in_chans": "the images have input.channels",
    "channels": "the images have input.channels",
    "global_pool": "model.pooling chooses it",
}
LARGEST = 8192  # of a whole number: a mistyped depth or width would take minutes or all memory before it fails
WEIGHTS = "weights come from --set model.weights=FILE"


def check_kwargs(spec: ModelSpec, network: type, *, also: Collection[str] = (), never: Collection[str] = ()) -> None:
    """Raise UserError for the first key of `model.kwargs` that does not shape the network, or makes it absurdly large.

    Args:
        spec: Its `kwargs` are checked.
        network: The class that is built.
        also: Keys that the library turns into parameters of its layers.
        never: Keys that the library keeps to itself, whatever the class has.
    """
    valid = ({*shape_parameters(network), *also}).difference(never, ELSEWHERE)
    for key in spec.kwargs:
        if key not in valid:
            where = f"model.kwargs.{key}: not a setting of {spec.backbone}'s shape"
            names = f"valid: {', '.join(sorted(valid)) or 'none'}"
            raise UserError(where, hint="; ".join([ELSEWHERE.get(key, WEIGHTS), names]))
    for key, value in spec.kwargs.items():
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"model.kwargs.{key}: must be at most {LARGEST}, not {value}")


def shape_parameters(network: type) -> set[str]:
    """The constructor's named parameters that are truth values, numbers or names.

    Where it hands all others on (`**kwargs`), those of the class it extends count too.
    """
    found: set[str] = set()
    for owner in network.__mro__:
        constructor = vars(owner).get("__init__")
        if constructor is None:
            continue
        parameters, hints = inspect.signature(constructor).parameters, _hints(constructor)
        found |= {name for name, own in parameters.items() if _is_simple(own, hints.get(name))}
        if not any(own.kind is own.VAR_KEYWORD for own in parameters.values()):
            break
    return found


def returned_class(builder: Callable[..., Any]) -> type | None:
    """The class that a function says it returns; None where it does not say."""
    returned = _hints(builder).get("return")
    return returned if isinstance(returned, type) else None


def _is_simple(parameter: inspect.Parameter, hint: Any) -> bool:  # noqa: ANN401 - an annotation
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return False
    return type(parameter.default) in (bool, int, float, str) or not {bool, int, float}.isdisjoint(_members(hint))


def _members(hint: Any) -> list[Any]:  # noqa: ANN401 - an annotation
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return [member for part in typing.get_args(hint) for member in _members(part)]
    return [hint]


def _hints(function: Callable[..., Any]) -> dict[str, object]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # names that exist for type checkers alone
        return {}
