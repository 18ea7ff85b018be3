"""The network: a backbone (conv4, timm or torchvision), pooling, and an embedding head, L2-normalised."""

import copy
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmlbench.errors import UserError
from dmlbench.models.backbones import conv4_backbone, read_weights, reason_of, timm_backbone, torchvision_backbone
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec

BACKBONES = "conv4, timm:NAME or torchvision:NAME"
WRAPPED = "0."  # begins the names of a network of timm whose pooled features are doubled
# timm's prefixes of weights that are downloaded or read from elsewhere
ELSEWHERE = re.compile(r"(^|:)(hf[-_]hub|local-dir):")


class EmbeddingModel(nn.Module):
    """Backbone and embedding head; the output has unit length.

    With `freeze_batchnorm`, running statistics are frozen while scale and shift are still learned
    (Roth et al. 2020).

    Attributes:
        features: F, the backbone's features of an image.
    """

    def __init__(self, backbone: nn.Module, features: int, head: nn.Module, *, freeze_batchnorm: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = features
        self.head = head
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


class BackboneFeatures(nn.Module):
    """A backbone alone, without a head: its features, scaled to unit length."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images -> (B, F) float32 features of unit length, also under autocast."""
        return functional.normalize(self.backbone(images).float(), dim=1)


def build_model(spec: ModelSpec, image: InputSpec, *, download: bool = True) -> EmbeddingModel:
    """Build the network; initial weights come from torch's global generator, which the caller seeds.

    Without `download`, weights that a library knows by name are only known to exist there.

    Raises:
        UserError: for an unknown backbone, arguments it does not take, weights that do not fit it or cannot be
            downloaded, and images that it does not take.
    """
    if ELSEWHERE.search(spec.backbone):
        said = f"{spec.backbone!r} is fetched or read from elsewhere, and no hash would know its content"
        raise UserError(f"model.backbone: {said}", hint=f"valid: {BACKBONES}, with --set model.weights=FILE")
    source, _, name = spec.backbone.partition(":")
    builders: dict[str, Callable[..., nn.Module]] = {
        "conv4": conv4_backbone,
        "timm": timm_backbone,
        "torchvision": torchvision_backbone,
    }
    if source not in builders or (source == "conv4") == bool(name):
        raise UserError(f"model.backbone: unknown backbone {spec.backbone!r}", hint=f"valid: {BACKBONES}")
    backbone = builders[source](name, spec, image, download=download)
    features = _feature_count(spec.backbone, backbone, image)
    _freeze(backbone, spec)
    return EmbeddingModel(backbone, features, _head(spec, features), freeze_batchnorm=spec.freeze_batchnorm)


def _head(spec: ModelSpec, features: int) -> nn.Module:
    if spec.head == "none":
        if spec.embedding_dim != features:
            said = f"with head: none, {spec.backbone} gives {features} features, not {spec.embedding_dim}"
            raise UserError(f"model.embedding_dim: {said}", hint=f"--set model.embedding_dim={features}")
        return nn.Identity()
    linear = nn.Linear(features, spec.embedding_dim)
    if spec.head_init != "default":
        if spec.head_init == "kaiming":
            nn.init.kaiming_normal_(linear.weight, mode="fan_out")
        else:
            nn.init.orthogonal_(linear.weight)
        nn.init.zeros_(linear.bias)
    normed = spec.head == "layernorm+linear"
    return nn.Sequential(nn.LayerNorm(features, elementwise_affine=False), linear) if normed else linear


def _freeze(backbone: nn.Module, spec: ModelSpec) -> None:
    """Let what the protocol names learn nothing: parameters, or modules with all that is in them."""
    # Pooling may have wrapped a library's network, whose names people know.
    named = {name.removeprefix(WRAPPED): own for name, own in backbone.named_parameters()}
    for pattern in spec.frozen:
        found = [own for name, own in named.items() if fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")]
        if not found:
            valid = ", ".join(dict.fromkeys(name.partition(".")[0] for name in named))
            said = f"no parameter or module of {spec.backbone} has this name"
            raise UserError(f"model.frozen: {pattern!r}: {said}", hint=f"its parts: {valid}")
        for own in found:
            own.requires_grad_(False)


def weights_of(networks: Sequence[EmbeddingModel]) -> dict[str, Tensor]:
    """Weights by name, on the CPU, to be saved; those of several networks with `memberN.` in front."""
    names = [f"member{number}." for number in range(1, len(networks) + 1)] if len(networks) > 1 else [""]
    return {
        front + name: tensor.detach().cpu().contiguous()
        for front, network in zip(names, networks, strict=True)
        for name, tensor in network.state_dict().items()
    }


def load_networks(build: Callable[[], EmbeddingModel], path: Path) -> list[EmbeddingModel]:
    """The networks, each as `build` gives it, whose weights `run --keep weights` saved; UserError where one misfits."""
    by_network: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_weights(path).items():
        front, _, rest = name.partition(".")
        own = front if front.startswith("member") else ""
        by_network.setdefault(own, {})[rest if own else name] = tensor
    if not by_network:
        raise UserError(f"{path}: holds no weights")
    networks = [build() for _ in by_network]
    names = sorted(by_network, key=lambda name: (len(name), name))
    try:
        for network, name in zip(networks, names, strict=True):
            network.load_state_dict(by_network[name])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: does not fit the network of its spec ({reason})") from error
    return networks


@torch.no_grad()
def _feature_count(name: str, backbone: nn.Module, image: InputSpec) -> int:
    """Features per image, found by one forward pass: names for this number differ between libraries."""
    backbone.eval()
    try:
        features = backbone(torch.zeros(1, image.channels, image.size, image.size))
    except Exception as error:  # whatever a library's network raises
        raise UserError(f"input.size: {name} does not take images of {image.size} px ({reason_of(error)})") from error
    backbone.train()
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError("model.backbone: gives no flat feature vector", hint="choose another backbone or pooling")
    _check_training_mode(name, backbone, image)
    return int(features.shape[1])


def _check_training_mode(name: str, backbone: nn.Module, image: InputSpec) -> None:
    """Raise UserError for a network that gives something else in training mode, such as auxiliary outputs."""
    if name == "conv4":
        return
    with torch.random.fork_rng(devices=[]):  # of a copy, with streams of its own: BatchNorm and dropout leave no trace
        try:
            features = copy.deepcopy(backbone)(torch.zeros(2, image.channels, image.size, image.size))
        except Exception as error:  # whatever a library's network raises
            raise UserError(f"model.backbone: {name} cannot be trained ({reason_of(error)})") from error
    if not isinstance(features, Tensor):
        what = f"gives {type(features).__name__} in training mode, no feature vector"
        raise UserError(f"model.backbone: {name} {what}", hint="choose another backbone")
