"""The network: a backbone (conv4, timm or torchvision), pooling, and a linear embedding head, L2-normalised."""

import difflib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.errors import UserError
from dmlbench.spec import InputSpec, ModelSpec

BACKBONES = "conv4, timm:NAME or torchvision:NAME"


class AverageMaxPool(nn.Module):
    """Sum of global average and global maximum pooling, (B, C, H, W) -> (B, C, 1, 1) (Kim et al. 2020, code).

    The maximum is a reduction over a flattened map because adaptive pooling has no deterministic CUDA gradient.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Pool a feature map."""
        flat = features.flatten(2)
        return (flat.mean(2) + flat.amax(2))[:, :, None, None]


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


class EmbeddingModel(nn.Module):
    """Backbone and embedding head; the output has unit length.

    With `freeze_batchnorm`, running statistics stay as they are while scale and shift go on learning
    (Roth et al. 2020).
    """

    def __init__(self, backbone: nn.Module, features: int, embedding_dim: int, *, freeze_batchnorm: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, embedding_dim)
        self.freeze_batchnorm = freeze_batchnorm

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images -> (B, D) float32 embeddings of unit length, also under autocast."""
        return self.embed(self.backbone(images))

    def embed(self, features: Tensor) -> Tensor:
        """(B, F) features of the backbone -> (B, D) float32 embeddings of unit length."""
        return functional.normalize(self.head(features).float(), dim=1)

    def train(self, mode: bool = True) -> "EmbeddingModel":
        """Switch to training, leaving frozen BatchNorm in evaluation mode."""
        super().train(mode)
        if mode and self.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def build_model(spec: ModelSpec, image: InputSpec) -> EmbeddingModel:
    """Build the network; initial weights come from torch's global generator, which the caller seeds.

    Raises:
        UserError: for an unknown backbone, arguments it does not take, or weights that do not fit it.
    """
    source, _, name = spec.backbone.partition(":")
    builders: dict[str, Callable[[str, ModelSpec, InputSpec], nn.Module]] = {
        "conv4": _conv4,
        "timm": _timm,
        "torchvision": _torchvision,
    }
    if source not in builders or (source == "conv4") == bool(name):
        raise UserError(f"model.backbone: unknown backbone {spec.backbone!r}", hint=f"valid: {BACKBONES}")
    backbone = builders[source](name, spec, image)
    features = _feature_count(backbone, image)
    return EmbeddingModel(backbone, features, spec.embedding_dim, freeze_batchnorm=spec.freeze_batchnorm)


def weights_of(networks: Sequence[EmbeddingModel]) -> dict[str, Tensor]:
    """Weights by name, on the CPU, to be saved; those of several networks with `memberN.` in front."""
    names = [f"member{place}." for place in range(1, len(networks) + 1)] if len(networks) > 1 else [""]
    return {
        front + name: tensor.detach().cpu().contiguous()
        for front, network in zip(names, networks, strict=True)
        for name, tensor in network.state_dict().items()
    }


def load_networks(build: Callable[[], EmbeddingModel], path: Path) -> list[EmbeddingModel]:
    """The networks whose weights `run --keep weights` saved; raises UserError where they do not fit.

    Args:
        build: Gives a network of the cell's spec.
        path: The file.
    """
    by_network: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_weights(path).items():
        front, _, rest = name.partition(".")
        own = front if front.startswith("member") else ""
        by_network.setdefault(own, {})[rest if own else name] = tensor
    networks = [build() for _ in by_network]
    try:
        for network, (_, state) in zip(
            networks, sorted(by_network.items(), key=lambda own: (len(own[0]), own[0])), strict=True
        ):
            network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path}: does not fit the network of its spec ({str(error).splitlines()[-1].strip()})"
        ) from error
    return networks


def _block(channels: int, width: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2))


def _conv4(_: str, spec: ModelSpec, image: InputSpec) -> nn.Module:
    pool = AverageMaxPool() if spec.pooling == "average+max" else nn.AdaptiveAvgPool2d(1)
    if image.size < 16:
        raise UserError(f"input.size: conv4 halves the image four times and needs 16 px, not {image.size}")
    try:
        backbone = Conv4(image.channels, pool, **spec.kwargs)  # type: ignore[arg-type]
    except (TypeError, RuntimeError) as error:
        raise UserError(f"model.kwargs: conv4 does not take {spec.kwargs} ({error})", hint="valid: width") from error
    if spec.weights:
        _load(backbone, spec.weights, ignore="")
    return backbone


def _timm(name: str, spec: ModelSpec, image: InputSpec) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise _unknown_backbone("timm", name, timm.list_models())
    pooled = "avg" if spec.pooling == "average" else "avgmax"
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": image.channels, "global_pool": pooled, **spec.kwargs}
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=spec.weights == "pretrained", **kwargs)
    except (TypeError, AssertionError, RuntimeError, OSError) as error:
        raise UserError(f"model: timm cannot build {name} with {kwargs} ({error})") from error
    if spec.weights and spec.weights != "pretrained":
        classifier = getattr(backbone, "pretrained_cfg", {}).get("classifier") or "classifier"
        _load(backbone, _local(spec.weights, "pretrained"), ignore=f"{classifier}.")
    # timm's avgmax is the mean of both; the published pooling is their sum.
    return nn.Sequential(backbone, _Double()) if spec.pooling == "average+max" else backbone


def _torchvision(name: str, spec: ModelSpec, image: InputSpec) -> nn.Module:
    from torchvision import models

    if image.channels != 3:
        raise UserError(f"input.channels: torchvision:{name} takes 3 channels, not {image.channels}")
    if name not in models.list_models():
        raise _unknown_backbone("torchvision", name, models.list_models())
    local = spec.weights if spec.weights and spec.weights.endswith((".safetensors", ".pth")) else None
    if spec.weights == "DEFAULT":
        raise UserError("model.weights: DEFAULT changes between releases", hint="name the weights, e.g. IMAGENET1K_V1")
    try:
        backbone: nn.Module = models.get_model(name, weights=None if local else spec.weights, **spec.kwargs)
    except (TypeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"model: torchvision cannot build {name} with weights {spec.weights} ({error})") from error
    classifier = next((part for part in ("fc", "classifier", "heads", "head") if hasattr(backbone, part)), None)
    if classifier is None:
        raise UserError(f"model.backbone: torchvision:{name} has no classifier to replace", hint="use timm:NAME")
    if local:
        _load(backbone, local, ignore=f"{classifier}.")
    setattr(backbone, classifier, nn.Identity())
    if spec.pooling == "average+max":
        if not isinstance(getattr(backbone, "avgpool", None), nn.AdaptiveAvgPool2d):
            raise UserError(f"model.pooling: torchvision:{name} does not end in average pooling", hint="use average")
        backbone.avgpool = AverageMaxPool()
    return backbone


def _unknown_backbone(source: str, name: str, names: Sequence[str]) -> UserError:
    """The nearest names only: each library has hundreds."""
    near = difflib.get_close_matches(name, names, n=5)
    hint = f"did you mean {', '.join(near)}?" if near else f"see {source}'s list_models()"
    return UserError(f"model.backbone: unknown {source} model {name!r}", hint=hint)


class _Double(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return 2 * features


def _local(weights: str, named: str) -> str:
    if not weights.endswith((".safetensors", ".pth")):
        hint = f"valid: a .safetensors or .pth file, or {named!r}"
        raise UserError(f"model.weights: {weights!r} is no weights file", hint=hint)
    return weights


def _load(backbone: nn.Module, weights: str, ignore: str) -> None:
    """Load a local file strictly; only the classifier that was taken off may be left over."""
    state = {
        key: value.float() if value.is_floating_point() else value for key, value in read_weights(Path(weights)).items()
    }
    expected = backbone.state_dict()
    wrong = [key for key in expected if key not in state and not (ignore and key.startswith(ignore))]
    wrong += [key for key in state if key not in expected and not (ignore and key.startswith(ignore))]
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


@torch.no_grad()
def _feature_count(backbone: nn.Module, image: InputSpec) -> int:
    """Features per image, found by one forward pass: names for this number differ between libraries."""
    backbone.eval()
    features = backbone(torch.zeros(1, image.channels, image.size, image.size))
    backbone.train()
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError("model.backbone: gives no flat feature vector", hint="choose another backbone or pooling")
    return int(features.shape[1])
