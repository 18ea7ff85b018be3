import hashlib

import pytest
import torch
from torch import nn

from dmlbench.errors import UserError
from dmlbench.specs.cell import MethodSpec, Part, ResolvedValue
from dmlbench.specs.plugins import plugin_digest
from dmlbench.specs.registry import Registry
from dmlbench.training.build import (
    TrainingSet,
    at_networks_rate,
    build_loss,
    build_modifier,
    build_seeded_model,
    build_trainer,
)

PULL = """
import torch

class Pull(torch.nn.Module):
    def __init__(self, strength, num_classes):
        super().__init__()
        if strength < 0:
            raise ValueError("strength must not be negative")
        self.strength = strength
        self.centres = torch.nn.Parameter(torch.zeros(num_classes, 2))

    def forward(self, embeddings, labels, generator=None):
        return self.strength * embeddings.square().sum()

class Soft:
    tau = 1.0
    def __init__(self, sharpness):
        self.sharpness = sharpness
    def targets(self, teacher_embeddings):
        return torch.eye(len(teacher_embeddings))
"""
MORE = """
import torch

class Proxies(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proxies = torch.nn.Linear(2, 3)
        self.inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False))
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.scale_of = torch.nn.Parameter(torch.ones(()), requires_grad=False)

class Unbuilt(torch.nn.Module):
    def __init__(self, how):
        raise {"lookup": KeyError("gone"), "exit": SystemExit(0), "lines": RuntimeError("one\\ntwo"),
               "group": BaseExceptionGroup("g", [SystemExit()])}[how]

number = 3
"""
SIZES = {"num_classes": 3, "embedding_dim": 2}


@pytest.fixture
def plugin(tmp_path):
    """A part whose class comes from a file."""

    def make(class_name, text=PULL, kind="loss", **values) -> Part:
        path = tmp_path / "plugin.py"
        path.write_text(text)
        rates = {name: ResolvedValue(value=rate, source="a test") for name, rate in values.pop("rates", {}).items()}
        parameters = {name: ResolvedValue(value=value, source="a test") for name, value in values.items()}
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        where = {"plugin": str(path), "plugin_sha256": sha256}
        return Part(
            name="mine", title="Mine", kind=kind, class_name=class_name, parameters=parameters, learning_rates=rates,
            **where,
        )  # fmt: skip

    return make


def groups(trainer):
    """(size of the group, rate, weight decay) of the optimiser's groups."""
    return [(len(g["params"]), g["lr"], g["weight_decay"]) for g in trainer.networks[0].optimizer.param_groups]


def test_proxies_and_boundaries_learn_at_their_own_rates_without_decay(make_trainer):
    backbone = len(list(make_trainer("ms").model.backbone.parameters()))
    settings = {"learning_rate": 1e-5, "weight_decay": 4e-4}
    network = [(backbone, 1e-5, 4e-4), (2, 1e-5, 4e-4)]
    assert groups(make_trainer("ms", **settings)) == network
    assert groups(make_trainer("triplet+obdsd", **settings)) == network
    assert groups(make_trainer("proxyanchor+psd", **settings)) == [*network, (1, 0.01, 0.0)]
    assert groups(make_trainer("margin", **settings)) == [*network, (1, 0.0005, 0.0)]


def test_the_head_may_have_its_own_rate(make_trainer):
    trainer = make_trainer("ms", learning_rate=1e-5, head_learning_rate=1e-3)
    assert [rate for _, rate, _ in groups(trainer)] == [1e-5, 1e-3]
    head = trainer.networks[0].optimizer.param_groups[1]["params"]
    assert [id(parameter) for parameter in head] == [id(parameter) for parameter in trainer.model.head.parameters()]


@pytest.mark.parametrize(("head", "expected"), [(None, [0.004, 0.004]), (0.03, [0.004, 0.012])])
def test_a_method_may_have_its_own_rate_for_the_network(make_protocol, head, expected):
    """A head's own rate keeps its ratio to the network's."""
    protocol = make_protocol(head_learning_rate=head)
    method = Registry().resolve("margin", "glyphs", protocol.name)
    rates = method.loss.learning_rates | {"network": ResolvedValue(value=0.004, source="a search")}
    method = method.model_copy(update={"loss": method.loss.model_copy(update={"learning_rates": rates})})
    cpu = torch.device("cpu")
    trainer = build_trainer(method, protocol, build_seeded_model(protocol, 0, cpu), TrainingSet(4, 24), cpu)
    assert [rate for _, rate, _ in groups(trainer)] == pytest.approx([*expected, 0.0005])


def test_every_parameter_is_optimised_once(make_trainer):
    trainer = make_trainer("margin+psd")
    optimised = [id(p) for group in trainer.networks[0].optimizer.param_groups for p in group["params"]]
    everything = [id(p) for part in (trainer.model, trainer.networks[0].criterion) for p in part.parameters()]
    assert sorted(optimised) == sorted(everything)
    assert isinstance(trainer.networks[0].optimizer, torch.optim.Adam)


def test_decay_shrinks_the_network_and_not_the_proxies(make_trainer, batch, mining):
    trainer = make_trainer("proxyanchor", weight_decay=100.0)
    trainer.networks[0].criterion.forward = lambda embeddings, labels, generator: (
        0 * (embeddings.sum() + trainer.networks[0].criterion.proxies.sum())
    )
    weight, proxies = trainer.model.head.weight.detach().clone(), trainer.networks[0].criterion.proxies.detach().clone()
    trainer.step(batch, 0, mining)
    assert not torch.equal(trainer.model.head.weight, weight)
    assert torch.equal(trainer.networks[0].criterion.proxies, proxies)


def test_milestones_shrink_every_rate(make_trainer, train):
    training = {"epochs": 5, "learning_rate": 0.01, "milestones": (1, 3), "gamma": 0.5}
    trainer = make_trainer("proxyanchor", **training)
    rows = train(trainer, range(5))
    rates = [row["train/learning_rate"] for row in rows]
    assert rates == pytest.approx([0.01, 0.005, 0.005, 0.0025, 0.0025])
    assert [group["lr"] for group in trainer.networks[0].optimizer.param_groups] == pytest.approx(
        [0.0025, 0.0025, 0.0025]
    )


def test_without_milestones_the_rate_stays(make_trainer, train):
    rows = train(make_trainer("ms"), range(3))
    assert [row["train/learning_rate"] for row in rows] == [0.01] * 3


def test_a_plugin_is_built_with_the_sizes_it_asks_for(plugin):
    loss = build_loss(plugin("Pull", strength=2.0), SIZES)
    assert isinstance(loss, nn.Module)
    assert loss.strength == 2.0
    assert loss.centres.shape == (3, 2)
    modifier = build_modifier(plugin("Soft", kind="distillation", sharpness=3, **{"lambda": 7}), SIZES)
    assert (modifier.distillation.sharpness, modifier.lambda_) == (3, 7.0)
    assert build_modifier(plugin("Soft", kind="distillation", sharpness=3), SIZES).lambda_ == 1.0


@pytest.mark.parametrize(
    ("class_name", "text", "values", "message"),
    [
        ("Push", PULL, {}, "plugin.py: class: defines no 'Push'; it defines Pull, Soft"),
        ("Pull", "import torch", {}, "plugin.py: class: defines no 'Pull'; it defines no class"),
        ("Pull", "import nowhere_to_be_found", {}, "plugin.py: plugin: ModuleNotFoundError: No module named"),
        ("Pull", "class Pull(:", {}, "plugin.py: plugin: SyntaxError"),
        ("Pull", "1 / 0", {}, "plugin.py: plugin: ZeroDivisionError"),
        ("Pull", PULL, {}, "mine: parameters: strength is missing; see Pull in "),
        (
            "Pull",
            PULL,
            {"strengt": 1},
            "parameters: unknown parameter 'strengt'; did you mean 'strength'?; valid: strength; see",
        ),
        (
            "Pull",
            PULL,
            {"speed": 1},
            "parameters: unknown parameter 'speed'; did you mean 'strength'?; valid: strength;",
        ),
        ("Pull", PULL, {"strength": -1}, "strength must not be negative"),
        ("Soft", PULL, {"sharpness": 1}, "plugin.py: Soft must be a torch.nn.Module"),
    ],
)
def test_a_plugin_that_does_not_work_says_why(plugin, class_name, text, values, message):
    with pytest.raises(UserError) as caught:
        build_loss(plugin(class_name, text, **values), SIZES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rate_holds_for_a_module_and_the_innermost_one_counts(plugin, make_protocol):
    rates = {"proxies": 0.5, "inner": 0.25, "inner.1": 0.125}
    criterion = build_loss(part := plugin("Proxies", MORE, rates=rates), SIZES)
    protocol, cpu = make_protocol(learning_rate=1e-5), torch.device("cpu")
    method = MethodSpec(name="mine", loss=part)
    trainer = build_trainer(method, protocol, build_seeded_model(protocol, 0, cpu), TrainingSet(3, 6), cpu)
    own = trainer.networks[0].optimizer.param_groups[2:]  # after the backbone's and the head's
    pairs = zip(criterion.named_parameters(), own, strict=True)
    assert {name: group["lr"] for (name, _), group in pairs} == {
        "proxies.weight": 0.5, "proxies.bias": 0.5, "inner.0.weight": 0.25, "inner.0.bias": 0.25,
        "inner.1.weight": 0.125, "scale": 1e-5, "scale_of": 1e-5,
    }  # fmt: skip
    assert at_networks_rate(criterion, part) == ["scale"]


@pytest.mark.parametrize("name", ["prxies", "prox", "proxies.weigh", "weight", "proxies.", ""])
def test_a_rate_that_holds_for_nothing_is_a_mistake(plugin, name):
    with pytest.raises(UserError, match=r"^mine: learning_rates: unknown learned parameter .*valid: .*proxies\.weight"):
        build_loss(plugin("Proxies", MORE, rates={name: 0.1}), SIZES)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("lookup", "KeyError: 'gone'"),
        ("exit", "SystemExit: 0"),
        ("lines", "RuntimeError: one two"),
        ("group", "BaseExceptionGroup: g"),
    ],
)
def test_whatever_a_constructor_raises_is_one_line(plugin, how, what):
    with pytest.raises(UserError, match=r"^mine: Unbuilt with ") as caught:
        build_loss(plugin("Unbuilt", MORE, how=how), SIZES)
    assert f"raises {what}" in str(caught.value)


def test_a_class_that_is_none_and_a_file_that_exits(plugin):
    with pytest.raises(UserError, match=r"plugin\.py: class: 'number' is no class but of type int"):
        build_loss(plugin("number", MORE), SIZES)
    with pytest.raises(UserError, match=r"plugin\.py: plugin: SystemExit: 0"):
        build_loss(plugin("Pull", text="raise SystemExit(0)"), SIZES)


@pytest.mark.parametrize("text", ["8.0.1", "1e-", "4O"])
def test_a_text_for_a_number_names_its_parameter(text, plugin):
    strong = (
        "from torch import nn\nclass Strong(nn.Module):\n    def __init__(self, strength: float): super().__init__()\n"
    )
    with pytest.raises(UserError, match=rf"^mine: parameters: strength: must be a number, not the text '{text}'$"):
        build_loss(plugin("Strong", strong, strength=text), SIZES)
    build_loss(plugin("Strong", strong, strength=8.0), SIZES)


@pytest.mark.parametrize("annotation", ["int", "'int'", "int | None", "Annotated[int, Gt(0)]"])
def test_a_whole_number_is_one(annotation, plugin):
    head = (
        "from typing import Annotated\nfrom annotated_types import Gt\nfrom torch import nn\nclass Deep(nn.Module):\n"
    )
    deep = f"{head}    def __init__(self, depth: {annotation} = 1): super().__init__()\n"
    for value in (2.5, True):
        with pytest.raises(UserError, match=rf"^mine: parameters: depth: must be a whole number, not {value}$"):
            build_loss(plugin("Deep", deep, depth=value), SIZES)
    build_loss(plugin("Deep", deep, depth=2), SIZES)


def test_a_plugin_uses_the_helpers_of_its_folder_and_no_others(tmp_path):
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "helper.py").write_text(f"number = {number}")
        (folder / "own.py").write_text(
            "import helper\nfrom .helper import number\nfrom torch import nn\n"
            "class Own(nn.Module):\n    number = (number, helper.number)\n"
        )
        digest = plugin_digest(folder / "own.py")
        about = {"plugin": str(folder / "own.py"), "plugin_sha256": digest, "parameters": {}}
        part = Part(name="own", title="Own", kind="loss", class_name="Own", **about)
        found.append(build_loss(part, SIZES).number)
    assert found == [(1, 1), (2, 2)]
    (folder / "helper.py").write_text("number = 3")
    with pytest.raises(UserError, match=r"own\.py: plugin: it, or what it imports, has changed since"):
        build_loss(part, SIZES)
