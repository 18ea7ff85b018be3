"""Optimisers, schedules, warm-up, clipping, accumulation and micro-batches against torch's own, and official codes."""

import itertools

import pytest
import torch
from torch import nn

from dmlbench.data.loader import Batch
from dmlbench.data.samplers import check_batches
from dmlbench.errors import UserError
from dmlbench.modifiers import XBM
from dmlbench.seeding import stream_seed
from dmlbench.specs.protocol import load_protocol, parse_settings
from dmlbench.specs.protocol_spec import WarmupSpec
from dmlbench.specs.registry import Registry
from dmlbench.training.build import TrainingSet, build_seeded_model, build_trainer

CPU = torch.device("cpu")


def trainer_of(method: str, protocol, classes: int = 4, images: int = 24):
    model = build_seeded_model(protocol, 0, CPU)
    torch.manual_seed(stream_seed(0, 0, "loss"))
    resolved = Registry().resolve(method, "cub", protocol.name)
    return build_trainer(resolved, protocol, model, TrainingSet(classes, images), CPU)


def batch_of(size: int, classes: int = 4, pixels: int = 16, channels: int = 1, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, channels, pixels, pixels, generator=generator)
    return Batch(images, torch.arange(size) // 2 % classes, torch.arange(size))


def step(trainer, batch: Batch, epoch: int = 0) -> None:
    trainer.train()
    trainer.step(batch, epoch, torch.Generator().manual_seed(0))


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def rates(trainer, epochs: int, steps: int = 1) -> list[list[float]]:
    """The rate of each group in every step."""
    found, batch = [], batch_of(8)
    for epoch in range(epochs):
        for _ in range(steps):
            found.append([group["lr"] for group in trainer.networks[0].optimizer.param_groups])
            step(trainer, batch, epoch)
        trainer.end_epoch()
    return found


def small(name: str, dataset: str = "cub", *pairs: str):
    """A shipped protocol of a network and images that a test can afford."""
    tiny = ("model.backbone=conv4", "model.weights=null", "input.size=16", "input.resize=16")
    return load_protocol(name, dataset, parse_settings((*tiny, *pairs))[0])


def test_proxy_anchors_optimiser_is_the_official_codes():
    """train.py of tjddus9597/Proxy-Anchor-CVPR2020: groups, decay, what the warm-up freezes, rates of 20 epochs."""
    trainer = trainer_of("proxyanchor", small("proxyanchor-resnet50-512", "cub", "input.channels=3"))
    (network,) = trainer.networks
    model, proxies = network.model, list(network.criterion.parameters())
    official = torch.optim.AdamW(
        [
            {"params": list(model.backbone.parameters())},
            {"params": list(model.head.parameters()), "lr": 1e-4 * 1},
            {"params": proxies, "lr": 1e-4 * 100},
        ],
        lr=1e-4,
        weight_decay=1e-4,
    )
    scheduler = torch.optim.lr_scheduler.StepLR(official, step_size=5, gamma=0.5)
    groups = network.optimizer.param_groups
    assert type(network.optimizer) is torch.optim.AdamW
    assert [group["name"] for group in groups] == ["backbone", "head", "proxies"]
    for ours, theirs in zip(groups, official.param_groups, strict=True):
        assert all(a is b for a, b in itertools.zip_longest(ours["params"], theirs["params"]))
        assert {key: ours[key] for key in ("weight_decay", "eps", "betas", "amsgrad")} == {
            key: theirs[key] for key in ("weight_decay", "eps", "betas", "amsgrad")
        }
    batch = batch_of(8, pixels=16, channels=3)
    for epoch in range(20):
        assert [group["lr"] for group in groups] == [group["lr"] for group in official.param_groups]
        step(trainer, batch, epoch)
        learns = epoch >= 5  # args.warm
        assert all(parameter.requires_grad == learns for parameter in model.backbone.parameters())
        assert all(parameter.requires_grad for parameter in (*model.head.parameters(), *proxies))
        trainer.end_epoch()
        official.step()
        scheduler.step()


def test_the_warm_up_leaves_the_backbone_as_it_is():
    trainer = trainer_of("proxyanchor", small("proxyanchor-resnet50-512", "cub", "input.channels=3"))
    batch, before = batch_of(8, channels=3), weights(trainer)
    step(trainer, batch, 4)
    after = weights(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("backbone"))
    assert not torch.equal(before["head.weight"], after["head.weight"])
    step(trainer, batch, 5)
    assert not torch.equal(after["backbone.blocks.0.0.weight"], weights(trainer)["backbone.blocks.0.0.weight"])


def test_hyp_vits_optimiser_is_the_official_codes():
    """train.py and model.py of htdt/hyp_metric: one AdamW with torch's decay, the patch embedding frozen."""
    tiny = "model.kwargs={embed_dim: 24, depth: 2, num_heads: 2}"
    sizes = ("model.embedding_dim=24", "input.size=224", "training.batch_size=8", "training.samples_per_class=2")
    others = ("training.micro_batch_size=null", "training.autocast=none", "model.weights=null")
    backbone = "model.backbone=timm:vit_small_patch16_224"
    settings = parse_settings((tiny, *sizes, *others, backbone))[0]
    protocol = load_protocol("hyp-vit-s16", "cub", settings)
    trainer = trainer_of("ms", protocol)
    (network,) = trainer.networks
    groups, official = network.optimizer.param_groups, torch.optim.AdamW(network.model.parameters(), lr=3e-5)
    assert type(network.optimizer) is torch.optim.AdamW
    assert [group["name"] for group in groups] == ["backbone", "head"]
    ours = [id(own) for group in groups for own in group["params"]]
    assert ours == [id(own) for own in official.param_groups[0]["params"]]
    for group in groups:
        assert {key: group[key] for key in ("lr", "weight_decay", "eps", "betas")} == {
            key: official.param_groups[0][key] for key in ("lr", "weight_decay", "eps", "betas")
        }
    head = network.model.head
    assert torch.allclose(head.weight @ head.weight.T, torch.eye(24), atol=1e-5)
    assert not head.bias.any()
    frozen = [name for name, own in network.model.backbone.named_parameters() if not own.requires_grad]
    assert frozen == ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    images = batch_of(8, pixels=224, channels=3)
    assert network.model(images.images).shape == (8, 24)
    before = weights(trainer)
    step(trainer, images)
    after = weights(trainer)
    unmoved = [name for name in before if torch.equal(before[name], after[name])]
    assert unmoved == ["backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"]
    found = []
    for _ in range(20):
        found.append(groups[0]["lr"])
        trainer.end_epoch()
    assert found == [3e-5] * 20  # no schedule


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "cosine"}, lambda own: torch.optim.lr_scheduler.CosineAnnealingLR(own, 20)),
        ({"schedule": "step", "step_size": 3, "gamma": 0.3}, lambda own: torch.optim.lr_scheduler.StepLR(own, 3, 0.3)),
        (
            {"milestones": (4, 9), "gamma": 0.1},
            lambda own: torch.optim.lr_scheduler.MultiStepLR(own, [4, 9], 0.1),
        ),
        (
            {"warmup": WarmupSpec(epochs=5, start=0.1)},
            lambda own: torch.optim.lr_scheduler.LinearLR(own, 0.1, total_iters=5),
        ),
        (
            {"schedule": "cosine", "warmup": WarmupSpec(epochs=5, start=0.1)},
            lambda own: torch.optim.lr_scheduler.ChainedScheduler(
                [
                    torch.optim.lr_scheduler.CosineAnnealingLR(own, 20),
                    torch.optim.lr_scheduler.LinearLR(own, 0.1, total_iters=5),
                ]
            ),
        ),
    ],
)
def test_twenty_rates_of_each_schedule_are_torchs(make_protocol, settings, make):
    trainer = trainer_of("proxyanchor", make_protocol(epochs=20, **settings))
    groups = trainer.networks[0].optimizer.param_groups
    learning = 1.0 if "warmup" not in settings else 0.1
    full = [group["lr"] / learning for group in groups]
    other = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in full])
    scheduler = make(other)
    expected = []
    for _ in range(20):
        expected.append([group["lr"] for group in other.param_groups])
        other.step()
        scheduler.step()
    assert rates(trainer, 20) == [pytest.approx(own, rel=1e-12, abs=1e-18) for own in expected]


def test_a_warm_up_in_steps_rises_with_every_update(make_protocol):
    warmup = WarmupSpec(steps=4, start=0.2)
    found = [own[0] for own in rates(trainer_of("ms", make_protocol(epochs=3, warmup=warmup)), 3, steps=2)]
    full = found[-1]
    assert found == pytest.approx([full * share for share in (0.2, 0.4, 0.6, 0.8, 1, 1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": WarmupSpec(steps=1000, start=0.2)}, "training.warmup.steps: 1000 is not below the 6 of this"),
        ({"warmup": WarmupSpec(steps=3, start=0.2), "accumulate": 2}, "training.warmup.steps: 3 is not below the 3"),
        ({"accumulate": 7}, "training.accumulate: 7 batches make an update, and the training has 6; give at most 6"),
        ({"sampler": "class-balanced", "batch_size": 10}, "sampler class-balanced needs 5 classes a batch"),
    ],
)
def test_trainings_that_could_not_be(make_protocol, settings, message):
    training = make_protocol(epochs=2, **settings).training
    with pytest.raises(UserError, match=message):
        check_batches(4, 24, training)


@pytest.mark.parametrize(("clip", "kind"), [({"clip_norm": 1e-3}, "norm"), ({"clip_value": 1e-4}, "value")])
def test_gradients_are_bounded(make_protocol, clip, kind):
    trainer, free = trainer_of("proxyanchor", make_protocol(**clip)), trainer_of("proxyanchor", make_protocol())
    batch = batch_of(8)
    for own in (trainer, free):
        step(own, batch)
    learned = [
        [p for group in own.networks[0].optimizer.param_groups for p in group["params"]] for own in (free, trainer)
    ]
    theirs, ours = ([parameter.grad for parameter in own] for own in learned)
    if kind == "norm":
        whole = torch.cat([gradient.flatten() for gradient in theirs]).norm()
        assert whole > 1e-3
        assert all(torch.allclose(a * 1e-3 / whole, b, rtol=1e-3) for a, b in zip(theirs, ours, strict=True))
    else:
        assert max(float(gradient.abs().max()) for gradient in theirs) > 1e-4
        assert all(torch.equal(a.clamp(-1e-4, 1e-4), b) for a, b in zip(theirs, ours, strict=True))


def test_accumulated_gradients_are_the_mean_of_their_batches(make_protocol):
    """One update of two batches, as of one optimiser's step by hand."""
    accumulating = trainer_of("contrastive", make_protocol(accumulate=2))
    plain = trainer_of("contrastive", make_protocol())
    first, second = batch_of(8), batch_of(8, seed=1)
    before = weights(accumulating)
    step(accumulating, first)
    learned = [name for name, _ in accumulating.model.named_parameters()]
    assert all(torch.equal(before[name], weights(accumulating)[name]) for name in learned)
    step(accumulating, second)
    assert any(not torch.equal(before[name], weights(accumulating)[name]) for name in learned)
    gradients = []
    plain.train()
    for batch in (first, second):
        plain.model.zero_grad()
        plain.networks[0].criterion(
            plain.model(batch.images), batch.labels, generator=torch.Generator().manual_seed(0)
        ).backward()
        gradients.append([parameter.grad.clone() for parameter in plain.model.parameters()])
    for own, *both in zip(accumulating.model.parameters(), *gradients, strict=True):
        assert torch.allclose(own.grad, sum(both) / 2, atol=1e-7)


def test_a_state_holds_gradients_that_wait(make_protocol):
    protocol = make_protocol(accumulate=2)
    whole, resumed = trainer_of("ms", protocol), trainer_of("ms", protocol)
    step(whole, batch_of(8))
    resumed.restore(whole.state())
    for own in (whole, resumed):
        step(own, batch_of(8, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))


@pytest.mark.parametrize("method", ["ms", "proxyanchor", "ms+s2sd"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(make_protocol, method):
    """Also where a modifier works on the features."""
    protocol = make_protocol(batch_size=16)
    frozen = protocol.model_copy(update={"model": protocol.model.model_copy(update={"freeze_batchnorm": True})})
    training = frozen.training.model_copy(update={"micro_batch_size": 6})
    whole, parts = (trainer_of(method, own) for own in (frozen, frozen.model_copy(update={"training": training})))
    batch = batch_of(16)
    for own in (whole, parts):
        step(own, batch)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_micro_batches_refuse_batchnorm_that_uses_the_batch(make_protocol):
    with pytest.raises(UserError, match="BatchNorm would use the statistics of a micro-batch"):
        trainer_of("ms", make_protocol(batch_size=16, micro_batch_size=4))


def test_sgd_is_torchs(make_protocol):
    settings = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "head_weight_decay": 0.0}
    (network,) = trainer_of("proxyanchor", make_protocol(**settings, loss_weight_decay=1e-3)).networks
    assert type(network.optimizer) is torch.optim.SGD
    found = [(own["name"], own["weight_decay"], own["momentum"]) for own in network.optimizer.param_groups]
    assert found == [("backbone", 5e-4, 0.9), ("head", 0.0, 0.9), ("proxies", 1e-3, 0.9)]
    assert all(group["nesterov"] for group in network.optimizer.param_groups)


def test_eps_of_adam(make_protocol):
    (network,) = trainer_of("ms", make_protocol(eps=1.0)).networks
    assert {group["eps"] for group in network.optimizer.param_groups} == {1.0}


def test_a_rate_as_a_multiple_of_the_networks():
    """100 times 1e-4 under Proxy-Anchor's protocol, 2000 times 1e-5 under Roth et al.'s base, an own rate elsewhere."""
    found = {}
    for name in ("proxyanchor-resnet50-512", "nonisotropic-resnet50-128", "resnet50-128"):
        loss = Registry().resolve("proxyanchor", "cub", name).loss
        found[name] = loss.rate("proxies", load_protocol(name, "cub").training.learning_rate)
    assert found == pytest.approx(
        {"proxyanchor-resnet50-512": 1e-2, "nonisotropic-resnet50-128": 2e-2, "resnet50-128": 1e-2}
    )
    sop = load_protocol("proxyanchor-resnet50-512", "sop").training.learning_rate
    assert Registry().resolve("proxyanchor", "sop", "proxyanchor-resnet50-512").loss.rate("proxies", sop) == 100 * sop


@pytest.mark.parametrize(
    ("head", "kinds"),
    [("linear", [nn.Linear]), ("layernorm+linear", [nn.LayerNorm, nn.Linear]), ("none", [])],
)
def test_heads(make_protocol, head, kinds):
    protocol = make_protocol()
    model = protocol.model.model_copy(update={"head": head})  # conv4 of width 8 gives 8 features
    trainer = trainer_of("ms+psd", protocol.model_copy(update={"model": model}))
    found = [type(part) for part in trainer.model.head.modules() if not list(part.children())]
    assert found == (kinds or [nn.Identity])
    step(trainer, batch_of(8), 1)
    embeddings = trainer.model(batch_of(8).images)
    assert embeddings.shape == (8, 8)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(8), atol=1e-6)


@pytest.mark.parametrize("method", ["ms+ema", "ms+psd-ema"])
def test_a_moving_average_moves_with_the_weights_alone(make_protocol, method):
    """Of two accumulated batches once, whatever the momentum: the first leaves it as it is."""
    trainer = trainer_of(method, make_protocol(accumulate=2))
    part = trainer.modifier.average if method == "ms+ema" else trainer.modifier.teacher
    before = [parameter.clone() for parameter in part.network.parameters()]
    step(trainer, batch_of(8))
    assert all(torch.equal(a, b) for a, b in zip(before, part.network.parameters(), strict=True))
    step(trainer, batch_of(8, seed=1))
    moved = [
        torch.allclose(mean, old.lerp(new, 1 - part.momentum))
        for mean, old, new in zip(part.network.parameters(), before, trainer.model.parameters(), strict=True)
    ]
    assert all(moved)
    assert any(not torch.equal(a, b) for a, b in zip(before, part.network.parameters(), strict=True))


def test_a_network_that_is_all_frozen(make_protocol):
    protocol = make_protocol()
    model = protocol.model.model_copy(update={"head": "none", "frozen": ("blocks",)})
    with pytest.raises(UserError, match=r"model\.frozen: nothing of the network is left to train"):
        trainer_of("ms", protocol.model_copy(update={"model": model}))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"size": 7}, "size must be at least a batch, 8, got 7"), ({"start": 6}, "start must be below the 6 steps")],
)
def test_a_memory_that_could_not_be_used(values, message):
    memory = XBM(**({"size": 8, "start": 5} | values))
    with pytest.raises(ValueError, match=message):
        memory.check_training(6, 8)
    XBM(size=8, start=5).check_training(6, 8)
    XBM(lambda_=0.0, **({"size": 8, "start": 5} | values)).check_training(6, 8)
