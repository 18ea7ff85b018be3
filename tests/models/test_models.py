import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models

from dmlbench.errors import UserError
from dmlbench.models.backbones import AverageMaxPool, read_weights
from dmlbench.models.model import build_model, load_networks, weights_of
from dmlbench.specs.protocol_spec import InputSpec, ModelSpec

TIMM, TORCHVISION = "timm:test_resnet", "torchvision:shufflenet_v2_x0_5"
MOBILENET = Path(__file__).parents[3] / "shared" / "weights" / "mobilenetv1_075_imagenet.safetensors"


def image_spec(channels=3, size=32) -> InputSpec:
    mean, std = (0.0,) * channels, (1.0,) * channels
    return InputSpec(channels=channels, size=size, resize=size, mean=mean, std=std, augmentation="none")


def build(backbone="conv4", channels=3, size=32, seed=0, **settings):
    torch.manual_seed(seed)
    return build_model(ModelSpec(backbone=backbone, embedding_dim=8, **settings), image_spec(channels, size))


def refusal(*args, **settings) -> str:
    with pytest.raises(UserError) as caught:
        build(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def images(channels=3, size=32) -> torch.Tensor:
    return torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(1))


def save(state: dict[str, torch.Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    ("backbone", "features", "settings"),
    [
        ("conv4", 64, {}),
        ("conv4", 12, {"kwargs": {"width": 12}, "pooling": "average+max"}),
        (TIMM, 96, {}),
        (TIMM, 96, {"pooling": "average+max"}),
        (TORCHVISION, 1024, {}),
        ("torchvision:resnet18", 512, {"pooling": "average+max"}),
        ("conv4", 64, {"pooling": "max"}),
        (TIMM, 96, {"pooling": "max"}),
        ("torchvision:resnet18", 512, {"pooling": "max", "head_init": "kaiming"}),
        ("conv4", 64, {"head_init": "orthogonal"}),
    ],
)
def test_embeddings_have_unit_length(backbone, features, settings):
    model = build(backbone, **settings)
    assert (model.head.in_features, model.head.out_features) == (features, 8)
    embeddings = model(images())
    assert embeddings.shape == (4, 8)
    assert embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(4), atol=1e-6)
    embeddings[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_embeddings_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = build()(images())
    assert embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(4), atol=1e-6)


@pytest.mark.parametrize("backbone", ["conv4", TIMM])
def test_grey_images(backbone):
    assert build(backbone, channels=1)(images(channels=1)).shape == (4, 8)


@pytest.mark.parametrize("backbone", ["conv4", TIMM, TORCHVISION])
def test_one_seed_one_network(backbone):
    one, same, other = (build(backbone, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    changed = [name for name in one if name.startswith("backbone.") and not torch.equal(one[name], other[name])]
    assert changed


def test_building_draws_no_numbers_beyond_the_weights():
    """Whatever follows in torch's stream must not depend on how the number of features was found."""
    build("conv4", size=16)
    small = torch.rand(1)
    build("conv4", size=32)
    assert torch.equal(small, torch.rand(1))


def test_average_and_maximum_pooling_are_added():
    features = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]], [[-1.0, -1.0], [-1.0, -5.0]]]])
    assert AverageMaxPool()(features).flatten().tolist() == [2.0 + 5.0, -2.0 - 1.0]


def test_conv4_pools_the_sum():
    average, both = build("conv4"), build("conv4", pooling="average+max")
    maps = average.backbone.blocks.eval()(images())
    both.backbone.blocks.eval()
    assert torch.allclose(average.backbone(images()), maps.mean((2, 3)), atol=1e-6)
    assert torch.allclose(both.backbone(images()), maps.mean((2, 3)) + maps.amax((2, 3)), atol=1e-6)


def test_timm_pools_the_sum():
    model = build(TIMM, pooling="average+max").eval()
    maps = model.backbone[0].forward_features(images())
    assert torch.allclose(model.backbone(images()), maps.mean((2, 3)) + maps.amax((2, 3)), atol=1e-5)


def test_torchvision_pools_the_sum():
    average = build("torchvision:resnet18").eval()
    both = build("torchvision:resnet18", pooling="average+max").eval()
    maps = {}
    average.backbone.layer4.register_forward_hook(lambda _module, _input, output: maps.update(last=output))
    pooled = average.backbone(images())
    last = maps["last"]
    assert torch.allclose(pooled, last.mean((2, 3)), atol=1e-5)
    assert torch.allclose(both.backbone(images()), last.mean((2, 3)) + last.amax((2, 3)), atol=1e-5)


@pytest.mark.parametrize("backbone", ["conv4", TIMM])
def test_frozen_batchnorm_keeps_its_statistics_and_learns_its_scale(backbone):
    model = build(backbone, freeze_batchnorm=True).eval().train()
    assert model.training
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert any(name.endswith("running_mean") for name in before)
    model(images())[:, 0].sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.weight.grad is not None and norm.bias.grad is not None for norm in norms)


def test_live_batchnorm_learns_its_statistics():
    model = build("conv4").train()
    before = model.backbone.blocks[0][1].running_mean.clone()
    model(images())
    assert not torch.equal(model.backbone.blocks[0][1].running_mean, before)


def test_kwargs_reach_the_backbone():
    assert build("conv4", kwargs={"width": 16}).head.in_features == 16
    assert build(TIMM, kwargs={"drop_rate": 0.25}).backbone.drop_rate == 0.25
    assert build("torchvision:mobilenet_v2", kwargs={"width_mult": 0.25}).backbone.features[0][0].out_channels == 8


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("leftover", [True, False])
@pytest.mark.parametrize(
    ("backbone", "classifier"), [(TIMM, "fc"), ("timm:test_efficientnet", "classifier"), (TORCHVISION, "fc")]
)
def test_local_weights_with_or_without_their_classifier(tmp_path, backbone, classifier, suffix, leftover):
    source, _, name = backbone.partition(":")
    torch.manual_seed(5)
    trained = timm.create_model(name, num_classes=7) if source == "timm" else torchvision_models.get_model(name)
    state = trained.state_dict()
    assert any(key.startswith(f"{classifier}.") for key in state)
    kept = {key: value for key, value in state.items() if leftover or not key.startswith(f"{classifier}.")}
    halves = {key: value.half() if value.is_floating_point() else value for key, value in kept.items()}
    loaded = build(backbone, weights=save(halves, tmp_path / f"weights{suffix}")).backbone.state_dict()
    assert set(loaded) == {key for key in state if not key.startswith(f"{classifier}.")}
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.values())
    assert all(torch.equal(value, halves[key].to(value.dtype)) for key, value in loaded.items())


def test_local_weights_of_conv4(tmp_path):
    state = build("conv4", seed=3).backbone.state_dict()
    loaded = build("conv4", seed=4, weights=save(state, tmp_path / "net.pth")).backbone.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("backbone", ["conv4", TIMM, TORCHVISION])
@pytest.mark.parametrize("damage", ["missing", "stray", "shape"])
def test_weights_that_do_not_fit_name_the_key(tmp_path, backbone, damage):
    state = build(backbone).backbone.state_dict()
    key = next(iter(state))
    if damage == "stray":
        state[key := "stray.weight"] = torch.zeros(1)
    elif damage == "missing":
        del state[key]
    else:
        state[key] = state[key][:1]
    path = save(state, tmp_path / "net.pth")
    assert refusal(backbone, weights=path) == f"{path}: model.weights: does not fit the backbone ({key})"


def test_many_keys_that_do_not_fit_are_counted(tmp_path):
    path = save({f"k{index}": torch.zeros(1) for index in range(5)}, tmp_path / "net.safetensors")
    expected = len(build("conv4").backbone.state_dict())
    assert refusal("conv4", weights=path).endswith(f" and {expected + 5 - 3} more)")


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_with_code_in_it_is_refused_unrun(tmp_path, empty_folder, write):
    path = tmp_path / "net.pth"
    write({"a": Trap()}, path)
    assert refusal("conv4", weights=str(path)).startswith(f"{path}: not a weights file that loads without code")
    assert not Path("sprung").exists()


@pytest.mark.parametrize("content", [{"model": {"a": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(1), {"epoch": 3}])
def test_a_file_must_map_names_to_tensors(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(UserError, match="must hold a mapping of names to tensors"):
        read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no tensors here", None])
def test_a_file_that_is_no_weights_file(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=r"not a (readable weights file|weights file that loads without code)"
    ) as caught:
        read_weights(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path):
    for name in ("net.pth", "net.safetensors"):
        path = Path(save({"a": torch.zeros(1000)}, tmp_path / name))
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UserError, match="not a readable weights file"):
            read_weights(path)


def test_saved_weights_fill_the_same_network_only(tmp_path):
    trained = build(seed=1)
    path = Path(save(weights_of([trained]), tmp_path / "weights.safetensors"))
    (loaded,) = load_networks(lambda: build(seed=2), path)
    assert torch.equal(loaded.eval()(images()), trained.eval()(images()))
    with pytest.raises(UserError, match="does not fit the network of its spec") as caught:
        load_networks(lambda: build(kwargs={"width": 8}), path)
    assert "\n" not in str(caught.value)


def test_weights_of_several_networks_come_back_in_order(tmp_path):
    cohort = [build(seed=seed) for seed in (1, 2, 3)]
    path = Path(save(weights_of(cohort), tmp_path / "weights.safetensors"))
    loaded = load_networks(lambda: build(seed=4), path)
    assert len(loaded) == 3
    for network, its in zip(loaded, cohort, strict=True):
        assert torch.equal(network.eval()(images()), its.eval()(images()))


@pytest.mark.skipif(not MOBILENET.is_file(), reason="the ImageNet weights of MobileNetV1 0.75 are not at hand")
def test_imagenet_mobilenet():
    kwargs = {"pad_type": "same", "bn_eps": 1e-3}
    model = build("timm:mobilenetv1_100", weights=str(MOBILENET), kwargs=kwargs, freeze_batchnorm=True).eval()
    features = model.backbone(images(size=64))
    assert features.shape == (4, 1024)
    assert (features[:, -256:] == 0).all()
    assert (features[:, :-256] > 0).any()
    given = read_weights(MOBILENET)
    loaded = model.backbone.state_dict()
    assert all(torch.equal(loaded[key], value.to(loaded[key].dtype)) for key, value in given.items())


@pytest.mark.filterwarnings("ignore:The default weight init")
@pytest.mark.parametrize("backbone", ["torchvision:googlenet", "torchvision:inception_v3"])
def test_a_network_with_auxiliary_outputs_is_refused_before_training(backbone):
    image = InputSpec(channels=3, size=96, resize=96, mean=(0.5,) * 3, std=(0.25,) * 3, augmentation="none")
    with pytest.raises(UserError, match=r"^(model\.backbone|input\.size): "):
        build_model(ModelSpec(backbone=backbone, embedding_dim=8), image)


def test_looking_at_training_mode_changes_no_weight_statistic_or_stream():
    image = InputSpec(channels=3, size=32, resize=32, mean=(0.5,) * 3, std=(0.25,) * 3, augmentation="none")
    torch.manual_seed(0)
    built = build_model(ModelSpec(backbone="torchvision:resnet18", embedding_dim=8), image)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    plain = torchvision_models.resnet18()
    nn.Linear(512, 8)  # the head
    assert torch.equal(torch.get_rng_state(), after)
    expected = {name: tensor for name, tensor in plain.state_dict().items() if not name.startswith("fc")}
    found = built.backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("backbone", ["conv4", TIMM, "torchvision:resnet18"])
def test_maximum_pooling_is_the_sum_less_the_average(backbone):
    average, both, most = (
        build(backbone, pooling=pooling, seed=3).eval().backbone(images())
        for pooling in ("average", "average+max", "max")
    )
    assert torch.allclose(most, both - average, atol=1e-5)


def test_the_class_token():
    """Of a transformer of timm the first of the normed tokens, which is not their average."""
    kwargs = {"embed_dim": 24, "depth": 1, "num_heads": 2}
    model = build("timm:vit_small_patch16_224", size=224, pooling="token", kwargs=kwargs).eval()
    tokens = model.backbone.forward_features(images(size=224))
    assert torch.equal(model.backbone(images(size=224)), tokens[:, 0])


def test_a_transformer_of_torchvision_gives_its_token():
    said = refusal("torchvision:vit_b_16", size=224, kwargs={})
    assert said == "model.pooling: torchvision:vit_b_16 gives its class token; use token"


@pytest.mark.parametrize("pooling", ["max", "average+max"])
def test_maximum_pooling_has_a_gradient_that_is_deterministic_on_a_gpu(pooling):
    """torch's adaptive maximum pooling has none; timm's networks would have it."""
    kinds = {type(module).__name__ for module in build(TIMM, pooling=pooling).modules()}
    assert not {kind for kind in kinds if kind.startswith("Adaptive") and "Max" in kind}


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("conv4", "model.pooling: conv4 has no class token; valid: average, average+max, max"),
        ("torchvision:resnet18", "model.pooling: torchvision:resnet18 has no class token"),
        (TIMM, "model: timm cannot build test_resnet"),
    ],
)
def test_networks_without_a_class_token(backbone, message):
    assert refusal(backbone, pooling="token").startswith(message)


def test_the_initial_weights_of_the_head():
    """As nn.init's, with a bias of 0; of the default head the bias is drawn."""
    kaiming, orthogonal = (build(head_init=kind).head for kind in ("kaiming", "orthogonal"))
    assert torch.allclose(orthogonal.weight @ orthogonal.weight.T, torch.eye(8), atol=1e-5)
    assert float(kaiming.weight.detach().std()) == pytest.approx((2 / 8) ** 0.5, rel=0.15)  # fan-out: 8 outputs
    assert not kaiming.bias.any()
    assert not orthogonal.bias.any()
    assert build().head.bias.all()


def test_a_layer_norm_before_the_head_has_no_parameters():
    plain, normed = build(), build(head="layernorm+linear")
    assert torch.equal(plain.head.weight, normed.head[1].weight)
    assert len(list(normed.head.parameters())) == 2
    features = normed.backbone(images())
    unit = nn.functional.layer_norm(features, features.shape[1:])
    assert torch.equal(normed.embed(features), plain.embed(unit))


def test_no_head_gives_the_backbones_features():
    model = build(kwargs={"width": 8}, head="none")
    features = model.backbone(images())
    assert torch.allclose(model.embed(features), nn.functional.normalize(features), atol=1e-6)
    said = "model.embedding_dim: with head: none, conv4 gives 64 features, not 8; --set model.embedding_dim=64"
    assert refusal(head="none") == said


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("blocks.0", {"blocks.0.0.weight", "blocks.0.0.bias", "blocks.0.1.weight", "blocks.0.1.bias"}),
        ("blocks.*.0.weight", {f"blocks.{number}.0.weight" for number in range(4)}),
        ("blocks.[12].1.bias", {"blocks.1.1.bias", "blocks.2.1.bias"}),
    ],
)
def test_frozen_parts(pattern, frozen):
    named = build(frozen=(pattern,)).backbone.named_parameters()
    assert {name for name, parameter in named if not parameter.requires_grad} == frozen


def test_frozen_parts_of_a_wrapped_network():
    """timm's average+max has a module around it, which nobody knows of."""
    named = build(TIMM, pooling="average+max", frozen=("conv1",)).backbone.named_parameters()
    frozen = [name for name, parameter in named if not parameter.requires_grad]
    assert frozen
    assert all("conv1" in name for name in frozen)


def test_frozen_parts_that_do_not_exist():
    said = refusal(frozen=("layer4",))
    assert said == "model.frozen: 'layer4': no parameter or module of conv4 has this name; its parts: blocks"
