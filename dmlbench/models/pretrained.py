"""Weights that a library downloads by name, such as IMAGENET1K_V1: which exist, and whether they are here.

`check_networks` builds the network of every protocol before a run, and for `--dry-run`, which downloads nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from dmlbench.errors import UserError
from dmlbench.specs.cell import Cell, digest
from dmlbench.specs.protocol_spec import ModelSpec, ProtocolSpec, protocol_identity

FILES = (".safetensors", ".pth")
OFFLINE = "without internet, --set model.weights=FILE, or `dmlbench prefetch` where there is some"


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


def has_download(spec: ModelSpec) -> bool:
    """Whether a library downloads the weights."""
    source, _, _ = spec.backbone.partition(":")
    return bool(spec.weights) and not is_file(str(spec.weights)) and source in ("timm", "torchvision")


def to_download(spec: ModelSpec) -> str:
    """What a run downloads before it starts, in words; empty where nothing is missing. Downloads nothing."""
    source, _, name = spec.backbone.partition(":")
    if not has_download(spec):
        return ""
    if _timm_has(name) if source == "timm" else _torchvision_has(name, str(spec.weights)):
        return ""
    what = f"weights {spec.weights} of {spec.backbone} are not on this machine"
    return f"{what} ({kept_as(spec)}); a run downloads them ({OFFLINE})"


def kept_as(spec: ModelSpec) -> str:
    """The file of downloaded weights, and the folder where their library looks for it."""
    source, _, name = spec.backbone.partition(":")
    if source == "torchvision":
        import torch
        from torchvision import models

        url = models.get_model_weights(name)[str(spec.weights)].url
        return f"{Path(urlparse(url).path).name} in {Path(torch.hub.get_dir()) / 'checkpoints'}"
    import timm
    from huggingface_hub.constants import HF_HUB_CACHE

    config = timm.get_pretrained_cfg(name)
    return f"{(config and config.hf_hub_id) or name} in {HF_HUB_CACHE}"


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


def check_networks(cells: Sequence[Cell], *, download: bool, cuda: bool = False, in_parts: bool = False) -> list[str]:
    """Build every network once: a misspelt backbone or weights that do not fit are one error, not one a cell.

    Args:
        cells: Their protocols name the networks.
        download: Whether to download weights that are missing.
        cuda: Whether they are to be trained on a GPU, which has no deterministic algorithm for some of them.
        in_parts: Whether several GPUs are to forward parts of each batch, which not every network allows.

    Returns:
        What is still to be downloaded, in words, where that is not to be done now.

    Raises:
        UserError: for a backbone, arguments, weights or a size of images that a run would refuse.
    """
    missing = []
    for protocol in {digest(protocol_identity(cell.protocol)): cell.protocol for cell in cells}.values():
        if in_parts or _can_fail(protocol):
            from dmlbench.models.model import build_model

            model = build_model(protocol.model, protocol.input, download=download)
            if cuda and protocol.training.deterministic:
                from dmlbench.models.determinism import check_deterministic

                check_deterministic(protocol.model.backbone, model.backbone, protocol.input)
            if in_parts:
                from dmlbench.models.parts import check_separable

                check_separable(protocol.model.backbone, model, protocol.input)
            missing.append(to_download(protocol.model))
    return list(dict.fromkeys(filter(None, missing)))


def _can_fail(protocol: ProtocolSpec) -> bool:
    """A plain conv4 cannot and is spared: it would be the only reason to import torch where cells are planned."""
    model = protocol.model
    plain = ModelSpec(backbone="conv4", embedding_dim=model.embedding_dim, freeze_batchnorm=model.freeze_batchnorm)
    return model != plain.model_copy(update={"head_init": model.head_init}) or protocol.input.size < 16
