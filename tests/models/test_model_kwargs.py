"""Networks that cannot be built: what `model.kwargs` and `model.weights` may hold, and weights that are not here."""

import re

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from dmlbench.models.model import build_model
from dmlbench.models.pretrained import to_download
from dmlbench.specs.protocol_spec import ModelSpec
from tests.models.test_models import TIMM, TORCHVISION, Trap, build, image_spec, refusal


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("conv5", {}, "model.backbone: unknown backbone 'conv5'; valid: conv4, timm:NAME or torchvision:NAME"),
        ("conv4:wide", {}, "model.backbone: unknown backbone 'conv4:wide'"),
        ("timm", {}, "model.backbone: unknown backbone 'timm'"),
        ("timm:", {}, "model.backbone: unknown backbone 'timm:'"),
        ("timm:resnt50", {}, "model.backbone: unknown timm model 'resnt50'; did you mean resnet50"),
        ("timm:qqqqqqqqq", {}, "model.backbone: unknown timm model 'qqqqqqqqq'; see timm's list_models()"),
        ("torchvision:resnt50", {}, "model.backbone: unknown torchvision model 'resnt50'; did you mean resnet50"),
        (TORCHVISION, {"channels": 1}, "input.channels: torchvision:shufflenet_v2_x0_5 takes 3 channels, not 1"),
        (TORCHVISION, {"weights": "DEFAULT"}, "model.weights: DEFAULT changes between releases; valid: a .saf"),
        (
            TORCHVISION,
            {"weights": "IMAGENET1K_V9"},
            "model.weights: 'IMAGENET1K_V9' is no weights file; valid: a .safetensors or .pth file, or 'IMAGENET1K_V1'",
        ),
        (
            TORCHVISION,
            {"kwargs": {"stages_repeats": 1}},
            "model.kwargs.stages_repeats: not a setting of torchvision:shu",
        ),
        (
            "torchvision:mobilenet_v2",
            {"kwargs": {"width_mult": "x"}},
            "model: torchvision cannot build mobilenet_v2 with",
        ),
        (
            "torchvision:fasterrcnn_resnet50_fpn",
            {},
            "model.backbone: unknown torchvision model 'fasterrcnn_resnet50_fpn'",
        ),
        (TORCHVISION, {"pooling": "average+max"}, "model.pooling: torchvision:shufflenet_v2_x0_5 does not end in"),
        ("torchvision:convnext_tiny", {}, "model.backbone: gives no flat feature vector"),
        (TIMM, {"kwargs": {"stem_width": "x"}}, "model: timm cannot build test_resnet with {'stem_width': 'x'}"),
        (
            "timm:vit_tiny_patch16_224",
            {},
            "input.size: timm:vit_tiny_patch16_224 does not take images of 32 px (Input h",
        ),
        (
            "timm:hf-hub:timm/resnet10t.c3_in1k",
            {},
            "model.backbone: 'timm:hf-hub:timm/resnet10t.c3_in1k' is fetched or",
        ),
        (
            "hf-hub:timm/resnet10t.c3_in1k",
            {},
            "model.backbone: 'hf-hub:timm/resnet10t.c3_in1k' is fetched or read from",
        ),
        ("timm:local-dir:net", {}, "model.backbone: 'timm:local-dir:net' is fetched or read from elsewhere"),
        ("timm:resnet10t.hf-hub:x", {}, "model.backbone: unknown timm model 'resnet10t.hf-hub:x'"),
        ("timm:timm/resnet10t", {}, "model.backbone: unknown timm model 'timm/resnet10t'"),
        (TIMM, {"weights": "IMAGENET1K_V1"}, "model.weights: 'IMAGENET1K_V1' is no weights file; valid: a .safetens"),
        ("conv4", {"kwargs": {"widht": 1}}, "model.kwargs.widht: not a setting of conv4's shape; weights come from"),
        ("conv4", {"kwargs": {"width": 10**9}}, "model.kwargs.width: must be at most 8192, not 1000000000"),
        (
            "timm:vit_tiny_patch16_224",
            {"kwargs": {"depth": 10**9}},
            "model.kwargs.depth: must be at most 8192, not 1000000000",
        ),
        ("conv4", {"weights": "net.bin"}, "model.weights: 'net.bin' is no weights file; valid: a .safetensors or .pth"),
        ("conv4", {"kwargs": {"width": "wide"}}, "model.kwargs: conv4 does not take {'width': 'wide'}"),
        ("conv4", {"kwargs": {"width": -1}}, "model.kwargs: conv4 does not take {'width': -1}"),
        ("conv4", {"size": 15}, "input.size: conv4 halves the image four times and needs 16 px, not 15"),
        ("conv4", {"weights": "nowhere.pth"}, "nowhere.pth: not a readable weights file"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(backbone, settings, message):
    assert refusal(backbone, **settings).startswith(message)


REFUSED = (
    "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "features_only", "cache_dir",
    "weights", "num_classes", "in_chans", "global_pool", "scriptable", "exportable", "no_jit", "kwargs_filter",
    "out_indices", "pretrained_strict", "pretrained_model_args", "model_cfg", "pruned", "progress", "block",
    "norm_layer", "device",
)  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
@pytest.mark.parametrize("backbone", [TIMM, "timm:test_efficientnet", "timm:efficientvit_m0", "torchvision:resnet18"])
def test_kwargs_shape_the_network_and_nothing_else(tmp_path, backbone, key):
    path = tmp_path / "net.pth"
    torch.save({"a": Trap()}, path)
    message = refusal(backbone, kwargs={key: str(path)})
    assert message.startswith(f"model.kwargs.{key}: not a setting of {backbone}'s shape; ")
    elsewhere = {"num_classes": "embedding_dim", "in_chans": "input.channels", "global_pool": "model.pooling"}
    assert elsewhere.get(key, "--set model.weights=FILE") in message
    assert not (tmp_path / "sprung").exists()


def test_timm_shapes_that_are_allowed():
    model = build("timm:test_efficientnet", kwargs={"bn_eps": 0.25, "pad_type": "same", "drop_path_rate": 0.1})
    assert {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.25}
    build("timm:efficientvit_m0", size=224, kwargs={"drop_rate": 0.1})  # its builder does not say what it returns
    assert build("timm:test_vit", kwargs={"img_size": 32}).head.in_features == 64


def test_checking_kwargs_leaves_the_initial_weights_alone():
    plain, checked = (
        build("timm:efficientvit_m0", size=224),
        build("timm:efficientvit_m0", size=224, kwargs={"drop_rate": 0}),
    )
    assert all(torch.equal(one, checked.state_dict()[name]) for name, one in plain.state_dict().items())


@pytest.mark.parametrize(("backbone", "weights"), [("torchvision:resnet18", "IMAGENET1K_V1"), (TIMM, "pretrained")])
def test_weights_that_cannot_be_downloaded_may_be_a_file(tmp_path, monkeypatch, backbone, weights):
    def refuse(*_args, **_kwargs):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    message = refusal(backbone, weights=weights)
    assert message.startswith("model.weights: ")
    assert "<urlopen error" in message
    assert "; without internet, --set model.weights=FILE, or `dmlbench prefetch`" in message
    assert re.search(r"the file is \S+ in /\S+$", message)
    spec = ModelSpec(backbone=backbone, embedding_dim=8, weights=weights)
    build_model(spec, image_spec(), download=False)
    assert to_download(spec).startswith(f"weights {weights} of {backbone} are not on this machine")


def test_weights_that_were_downloaded_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision_models.ResNet18_Weights.IMAGENET1K_V1.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]).touch()
    assert to_download(ModelSpec(backbone="torchvision:resnet18", embedding_dim=8, weights="IMAGENET1K_V1")) == ""
    assert to_download(ModelSpec(backbone="torchvision:resnet18", embedding_dim=8)) == ""
