import hashlib

import pytest

from dmlbench.errors import UserError
from dmlbench.specs.protocol import load_protocol, own_protocols, parse_settings, protocol_path

MINE = """\
name: mine
title: Mine
model: {backbone: "timm:test_resnet", embedding_dim: 8, weights: WEIGHTS}
input: {size: 32, resize: 40, mean: [0, 0, 0], std: [1, 1, 1], augmentation: crop}
training: {epochs: 3, learning_rate: 1e-5}
datasets:
  cub: {training: {epochs: 7}, evaluation: {ks: [1, 10]}}
"""


@pytest.fixture
def mine(tmp_path):
    def write(text=MINE):
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace("WEIGHTS", "null"))
        return str(path)

    return write


def refusal(name="conv4-64", dataset="glyphs", *pairs) -> str:
    with pytest.raises(UserError) as caught:
        load_protocol(name, dataset, parse_settings(pairs)[0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_protocols_carry_their_files_names():
    assert set(own_protocols()) == {
        "conv4-64",
        "mobilenetv1-112",
        "resnet50-128",
        "resnet50-512",
        "proxyanchor-resnet50-512",
        "nonisotropic-resnet50-128",
        "xbm-resnet50-128",
        "hyp-vit-s16",
        "hyp-vit-s16-dino",
    }
    for name in own_protocols():
        weights = {"model": {"weights": None}} if name == "mobilenetv1-112" else None  # the user's own
        assert load_protocol(name, "glyphs", weights).name == name


@pytest.mark.parametrize(
    ("protocol", "dataset", "epochs", "milestones", "gamma"),
    [
        ("resnet50-128", "cub", 150, (), 1.0),
        ("resnet50-128", "cars", 150, (), 1.0),
        ("resnet50-128", "sop", 100, (), 1.0),
        ("resnet50-512", "cub", 150, (), 1.0),
        ("resnet50-512", "cars", 300, (200, 250), 0.3),
        ("resnet50-512", "sop", 200, (70, 100), 0.2),
    ],
)
def test_published_schedules(protocol, dataset, epochs, milestones, gamma):
    spec = load_protocol(protocol, dataset)
    assert spec.training.epochs == epochs
    assert spec.training.milestones == milestones
    assert spec.training.gamma == gamma
    assert spec.evaluation.ks == ((1, 10, 100, 1000) if dataset == "sop" else (1, 2, 4, 8))


@pytest.mark.parametrize(
    ("name", "dim", "pooling"), [("resnet50-128", 128, "average"), ("resnet50-512", 512, "average+max")]
)
def test_the_resnet_protocols_are_roth_et_als(name, dim, pooling):
    spec = load_protocol(name, "cub")
    assert (spec.model.backbone, spec.model.weights) == ("torchvision:resnet50", "IMAGENET1K_V1")
    assert (spec.model.embedding_dim, spec.model.pooling, spec.model.freeze_batchnorm) == (dim, pooling, True)
    assert (spec.input.size, spec.input.resize, spec.input.augmentation, spec.input.flip) == (224, 256, "crop", True)
    assert (spec.input.crop_scale, spec.input.crop_ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (spec.training.batch_size, spec.training.samples_per_class) == (112, 2)
    assert (spec.training.learning_rate, spec.training.weight_decay) == (1e-5, 4e-4)
    assert spec.training.head_learning_rate is None
    assert (spec.input.mean, spec.input.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_conv4_is_small_and_single_threaded():
    spec = load_protocol("conv4-64", "glyphs")
    assert (spec.model.backbone, spec.model.embedding_dim, spec.input.size) == ("conv4", 64, 28)
    assert (spec.training.learning_rate, spec.training.weight_decay) == (1e-3, 4e-4)
    assert (spec.training.cpu_threads, spec.training.channels_last, spec.model.freeze_batchnorm) == (1, True, False)


def test_the_command_line_wins_over_the_dataset_and_that_over_the_file(mine):
    path = mine()
    assert load_protocol(path, "glyphs").training.epochs == 3
    assert load_protocol(path, "cub").training.epochs == 7
    assert load_protocol(path, "cub").evaluation.ks == (1, 10)
    settings, _ = parse_settings(("training.epochs=9", "model.kwargs.drop_rate=0.5"))
    assert load_protocol(path, "cub", settings).training.epochs == 9
    assert load_protocol(path, "cub", settings).evaluation.ks == (1, 10)
    assert load_protocol(path, "cub", settings).model.kwargs == {"drop_rate": 0.5}
    assert load_protocol(path, "cub", settings).training.learning_rate == 1e-5


def test_settings_are_yaml_values():
    protocol, method = parse_settings(
        (
            "training.milestones=[1, 2]",
            "training.gamma=.5",
            "training.deterministic=true",
            "model.weights=null",
            "training.learning_rate=1e-4",
            "model.kwargs.width=8",
            "model.kwargs.name=a=b",
            "loss.margin=0.1",
            "distillation.lambda=0",
        )
    )
    assert protocol == {
        "training": {"milestones": [1, 2], "gamma": 0.5, "deterministic": True, "learning_rate": 1e-4},
        "model": {"weights": None, "kwargs": {"width": 8, "name": "a=b"}},
    }
    assert method == {"loss": {"margin": 0.1}, "distillation": {"lambda": 0}}
    assert load_protocol("conv4-64", "glyphs", protocol).training.learning_rate == 1e-4


def test_the_last_setting_of_a_key_counts():
    assert parse_settings(("training.epochs=1", "training.epochs=2"))[0] == {"training": {"epochs": 2}}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("training.epochs", "--set 'training.epochs': must be key.path=value; for example --set training.epochs=3"),
        ("training=3", "--set 'training=3': must be key.path=value"),
        ("training..epochs=3", "--set 'training..epochs=3': must be key.path=value"),
        ("=3", "--set '=3': must be key.path=value"),
        ("trainin.epochs=3", "--set trainin.epochs=3: unknown section 'trainin'; did you mean 'training'?"),
        ("datasets.cub.training.epochs=3", "--set datasets.cub.training.epochs=3: unknown section 'datasets'"),
        ("training.milestones=[1", "--set 'training.milestones=[1': the value is not valid YAML"),
        ("training.epoch=3", "--set: training: unknown key 'epoch'; did you mean 'epochs'?"),
        ("training.epochs=many", "--set: training.epochs: must be a whole number"),
        ("training.epochs=0", "--set: training.epochs: must be above 0, not 0"),
        ("training.epochs.first=3", "--set: training.epochs: must be a whole number"),
        ("training.batch_size=3", "--set: training: batch_size (3) must be a multiple of samples_per_class (2)"),
        ("training.learning_rate=.inf", "--set: training.learning_rate: must be a finite number"),
        ("evaluation.ks=[2, 4]", "--set: evaluation: ks must hold 1"),
        ("model.kwargs=3", "--set: model: kwargs: must be a mapping, not 3"),
        ("model.kwargs.width=[1]", "--set: model.kwargs.width: must be a finite number"),
        ("model.pooling=median", "--set: model.pooling: must be 'average', 'average+max', 'max' or 'token', not"),
        ("model.frozen=[a b]", "--set: model.frozen"),
        ("training.sampler=shuffle", "--set: training: samples_per_class must be 1 with sampler: shuffle"),
        ("training.micro_batch_size=112", "--set: training: micro_batch_size has no effect: it must be below"),
        ("training.momentum=0.9", "--set: training: momentum and nesterov are for optimizer: sgd, not adam"),
        ("training.schedule=step", "--set: training: schedule: step and step_size need each other"),
        ("training.gamma=0.5", "--set: training.gamma has no effect without milestones or step_size"),
        ("training.milestones=[3]", "--set: training.milestones has no effect with gamma: 1"),
        ("input.flip=true", "--set: input.flip has no effect with augmentation: affine"),
        ("input.crop_scale=[0.2, 1]", "--set: input.crop_scale has no effect with augmentation: affine"),
        ("training.warmup.start=0.1", "--set: training.warmup: needs epochs or steps, and not both"),
        ("training.warmup={epochs: 3}", "--set: training.warmup: has no effect with start: 1 and frozen: none"),
        ("training.warmup={steps: 3, frozen: backbone}", "--set: training.warmup: frozen: backbone needs epochs"),
        ("training.warmup={epochs: 12, start: 0.1}", "--set: training: warmup.epochs (12) must be below epochs (12)"),
        ("input.augmentation=transforms", "--set: input: augmentation: transforms and a list of transforms need each"),
        ("input.transforms=[{Resize: {size: 8}}]", "--set: input: augmentation: transforms and a list of transforms"),
        ("validation.classes=1", "--set: validation.classes: must be below 1, not 1"),
    ],
)
def test_a_setting_that_is_wrong(pair, message):
    assert refusal("conv4-64", "glyphs", pair).startswith(message)


def test_a_value_and_a_mapping_exclude_each_other():
    with pytest.raises(UserError, match="width is set to a value already"):
        parse_settings(("model.width=3", "model.width.height=4"))


def test_a_copy_of_a_shipped_protocol_may_keep_its_name(mine):
    copied = mine(protocol_path("conv4-64").read_text())
    assert load_protocol(copied, "glyphs") == load_protocol("conv4-64", "glyphs")


def test_weights_that_the_user_brings_are_asked_for():
    with pytest.raises(UserError, match=r"model\.weights: no such file .*--set model\.weights=FILE"):
        load_protocol("mobilenetv1-112", "glyphs")


def test_unknown_protocols():
    assert refusal("conv4").startswith(
        "unknown protocol 'conv4'; did you mean 'conv4-64'?; valid: conv4-64, hyp-vit-s16"
    )
    assert refusal("nowhere.yaml") == "--protocol nowhere.yaml: no such file; see `dmlbench list protocols`"
    assert protocol_path("conv4-64").name == "conv4-64.yaml"
    assert refusal(__file__) == f"--protocol {__file__}: not a protocol file; yours ends in .yaml"


@pytest.mark.parametrize(
    ("old", "new", "dataset", "message"),
    [
        ("title:", "titel:", "glyphs", ": unknown key 'titel'; did you mean 'title'?"),
        ("epochs: 3", "epoch: 3", "glyphs", ": training: unknown key 'epoch'; did you mean 'epochs'?"),
        ("name: mine", "name: conv4-64", "glyphs", ": name: 'conv4-64' is a shipped protocol's; give yours another"),
        ("name: mine", "name: ../mine", "glyphs", ": name: must be letters"),
        ("epochs: 7", "epoch: 7", "cub", ": datasets.cub: training: unknown key 'epoch'; did you mean 'epochs'?"),
        ("epochs: 7", "epochs: 0", "cub", ": datasets.cub: training.epochs: must be above 0, not 0"),
        ("training: {epochs: 7}", "training: 7", "cub", ": datasets.cub: training: must be a mapping, not 7"),
        ("training: {epochs: 7}", "trainin: {}", "cub", ": datasets.cub: unknown key 'trainin'; did you mean 'train"),
        ("name: mine", "name: mine\nname: yours", "glyphs", ": line 1 not valid YAML (key 'name' stands twice)"),
        ("WEIGHTS", "nowhere.pth", "glyphs", ": model.weights: no such file 'nowhere.pth'"),
    ],
)
def test_a_mistake_in_a_protocol_file_names_file_layer_and_key(mine, old, new, dataset, message):
    assert old in MINE
    path = mine(MINE.replace(old, new))
    assert refusal(path, dataset).startswith(f"{path}{message}")


def test_local_weights_are_found_beside_the_protocol_and_hashed(mine, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"tensors")
    model = load_protocol(mine(MINE.replace("WEIGHTS", "net.safetensors")), "cub").model
    assert model.weights == str(tmp_path / "net.safetensors")
    assert model.weights_sha256 == hashlib.sha256(b"tensors").hexdigest()


def test_weights_by_name_have_no_digest(mine):
    model = load_protocol(mine(MINE.replace("WEIGHTS", "pretrained")), "cub").model
    assert (model.weights, model.weights_sha256) == ("pretrained", None)


def test_a_stated_digest_is_checked(mine, tmp_path):
    (tmp_path / "net.pth").write_bytes(b"tensors")
    found = hashlib.sha256(b"tensors").hexdigest()
    stated = "net.pth, weights_sha256: DIGEST"
    path = mine(MINE.replace("WEIGHTS", stated.replace("DIGEST", found)))
    assert load_protocol(path, "cub").model.weights_sha256 == found
    path = mine(MINE.replace("WEIGHTS", stated.replace("DIGEST", "a" * 64)))
    assert refusal(path, "cub").startswith(f"{tmp_path / 'net.pth'}: expected sha256 {'a' * 64}")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            ("training.float32_convolutions=tf32", "training.autocast=bfloat16"),
            "training: float32_convolutions has no effect with autocast: bfloat16",
        ),
        (
            ("training.accumulate=2", "training.autocast=float16"),
            "training: accumulate needs autocast: none or",
        ),
        (("training.clip_norm=1", "training.clip_value=1"), "training: clip_norm and clip_value exclude each other"),
        (("training.optimizer=sgd", "training.nesterov=true"), "training: nesterov needs a momentum above 0"),
        (("training.optimizer=sgd", "training.eps=1e-3"), "training: eps is for optimizer: adam and adamw, not sgd"),
        (("training.schedule=cosine", "training.milestones=[3]"), "training: milestones are for schedule: multistep"),
        (("model.head=none", "model.head_init=kaiming"), "model: head_init has no effect with head: none"),
        (("model.head=none", "training.head_learning_rate=1"), "training.head_learning_rate has no effect with"),
        (
            ("model.head=none", "training.warmup={epochs: 1, frozen: backbone}"),
            "training.warmup.frozen: with",
        ),
        (
            ("input.augmentation=transforms", "input.transforms=[{Resize: {size: 8}}]", "input.flip=true"),
            "input.flip has no effect with augmentation: transforms",
        ),
    ],
)
def test_settings_that_contradict_each_other(pairs, message):
    assert message in refusal("conv4-64", "glyphs", *pairs)


def test_the_protocols_of_the_literature():
    """What tells them apart, by their official codes."""
    cub, cars = (load_protocol("proxyanchor-resnet50-512", name).training for name in ("cub", "cars"))
    assert (cub.optimizer, cub.learning_rate, cub.weight_decay, cub.loss_weight_decay) == ("adamw", 1e-4, 1e-4, 1e-4)
    assert (cub.epochs, cub.step_size, cars.step_size, cub.gamma, cub.clip_value) == (60, 5, 10, 0.5, 10)
    assert (cub.warmup.epochs, cub.warmup.frozen, cub.sampler, cub.batch_size) == (5, "backbone", "shuffle", 120)
    sop = load_protocol("proxyanchor-resnet50-512", "sop")
    assert (sop.training.warmup.epochs, sop.training.warmup.frozen, sop.model.freeze_batchnorm) == (
        1,
        "backbone",
        False,
    )
    nonisotropic = load_protocol("nonisotropic-resnet50-128", "cub")
    same = load_protocol("resnet50-128", "cub")
    assert nonisotropic.model == same.model
    assert nonisotropic.input == same.input
    assert nonisotropic.training == same.training.model_copy(update={"epochs": 100, "batch_size": 90})
    xbm = load_protocol("xbm-resnet50-128", "sop").training
    assert xbm.epochs * xbm.steps_per_epoch == 35_000
    hyp = {name: load_protocol("hyp-vit-s16", name) for name in ("cub", "cars", "sop", "inshop")}
    sizes = [(own.training.epochs, own.training.batch_size, own.training.samples_per_class) for own in hyp.values()]
    assert sizes == [(50, 900, 9), (300, 882, 9), (200, 900, 2), (400, 900, 2)]
    assert all(own.evaluation.every == own.training.epochs for own in hyp.values())
    assert [own.input.resize for own in hyp.values()] == [256, 224, 224, 224]
    assert load_protocol("hyp-vit-s16-dino", "cub").training.learning_rate == 1e-5
