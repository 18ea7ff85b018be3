"""Weights that a library downloads by their name, such as IMAGENET1K_V1: which there are, and whether they are here."""

from pathlib import Path
from urllib.parse import urlparse

from dmlbench.errors import UserError
from dmlbench.specs.cell import ModelSpec

FILES = (".safetensors", ".pth")
OFFLINE = "without internet, --set model.weights=FILE"


def is_file(weights: str) -> bool:
    """Whether `model.weights` names a file; it is hashed, and read without unpickling code."""
    return weights.endswith(FILES)


def check_name(spec: ModelSpec, valid: list[str]) -> None:
    """Raise UserError unless `model.weights` is a file, or one of the names that the library knows."""
    if spec.weights is None or is_file(spec.weights) or spec.weights in valid:
        return
    names = f", or {', '.join(map(repr, valid))}" if valid else ""
    hint = f"valid: a .safetensors or .pth file{names}"
    if spec.weights == "DEFAULT":
        raise UserError("model.weights: DEFAULT changes between releases", hint=hint)
    raise UserError(f"model.weights: {spec.weights!r} is no weights file", hint=hint)


def to_download(spec: ModelSpec) -> str:
    """What a run downloads before it starts, in words; empty where nothing is missing. Downloads nothing.

    Args:
        spec: A model whose backbone and weights are known to exist.
    """
    source, _, name = spec.backbone.partition(":")
    if not spec.weights or is_file(spec.weights) or source not in ("timm", "torchvision"):
        return ""
    if _timm_has(name) if source == "timm" else _torchvision_has(name, spec.weights):
        return ""
    return f"weights {spec.weights} of {spec.backbone} are not on this machine; a run downloads them ({OFFLINE})"


def _torchvision_has(name: str, weights: str) -> bool:
    from torchvision import models

    return _downloaded(models.get_model_weights(name)[weights].url)


def _timm_has(name: str) -> bool:
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return False
    files = filter(None, (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"))
    repository, _, revision = (config.hf_hub_id or "").partition("@")
    cached = repository and any(
        isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files
    )
    return bool(cached) or (isinstance(config.url, str) and _downloaded(config.url))


def _downloaded(url: str) -> bool:
    import torch

    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name).is_file()
