"""`training.compile`: the same training but for rounding, under the same names."""

import copy
import shutil

import pytest
import torch
from torch._dynamo import explain
from torch._dynamo.utils import counters
from torch._inductor import config

from dmlbench.errors import UserError
from dmlbench.models.model import build_model
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.protocol_spec import WarmupSpec, protocol_identity
from dmlbench.training.device import prepare
from tests.training.test_fast_paths import weights

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backbone", ["conv4", "torchvision:resnet18", "torchvision:resnet50", "timm:mobilenetv1_100"])
@pytest.mark.parametrize("freeze_batchnorm", [False, True])
def test_the_graph_of_a_backbone_has_no_break(backbone, freeze_batchnorm):
    name = "conv4-64" if backbone == "conv4" else "resnet50-128"
    model = {"backbone": backbone, "weights": None, "freeze_batchnorm": freeze_batchnorm}
    protocol = load_protocol(name, "cub", {"model": model})
    network = build_model(protocol.model, protocol.input).train()
    found = explain(network.backbone)(torch.randn(2, protocol.input.channels, 64, 64))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


def test_a_graph_that_breaks_is_seen():
    def broken(images):
        return images + 1 if images.sum() > 0 else images - 1

    assert explain(broken)(torch.ones(2)).graph_break_count == 1


def test_off_is_the_default_and_leaves_hashes():
    plain, compiled = (load_protocol("conv4-64", "glyphs", {"training": own}) for own in ({}, {"compile": True}))
    assert "compile" not in protocol_identity(plain)["training"]
    assert protocol_identity(compiled)["training"]["compile"] is True


@pytest.fixture
def trained(make_trainer, train):
    """A trainer after some epochs, and their rows."""

    def run(name, epochs=range(3), **settings):
        trainer = make_trainer(name, 75 if "+" in name else None, learning_rate=1e-3, **settings)
        return trainer, train(trainer, epochs)

    return run


FROZEN = {"freeze_batchnorm": True}


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "graphs"),
    [
        ("ms", {}, 1),
        ("ms", {"model": FROZEN, "micro_batch_size": 4}, 1),
        ("ms", {"warmup": WarmupSpec(epochs=1, frozen="backbone")}, 2),
        ("ms+psd", {}, 2),
        ("ms+psd", {"model": FROZEN}, 2),
        ("margin+psd-ema", {}, 2),
        ("triplet+dm2-model", {}, 1),
    ],
)
def test_a_compiled_training_is_the_plain_one_but_for_rounding(name, settings, graphs, trained):
    """Losses agree to 1e-5, what a teacher adds to 1e-3 (or 1e-6 where it is next to 0), and weights to 1e-6."""
    quick, rows = trained(name, compile=True, **settings)
    assert counters["stats"]["unique_graphs"] == graphs  # a teacher's is one more, and no epoch brings another
    assert not counters["graph_break"]
    plain, plain_rows = trained(name, **settings)
    for row, plain_row in zip(rows, plain_rows, strict=True):
        assert row["train/ranking_loss"] == pytest.approx(plain_row["train/ranking_loss"], rel=1e-5)
        assert row["train/distillation_loss"] == pytest.approx(plain_row["train/distillation_loss"], rel=1e-3, abs=1e-6)
    assert list(quick.model.state_dict()) == list(plain.model.state_dict())
    mine, its = weights(quick.model), weights(plain.model)
    for part, tensor in mine.items():
        torch.testing.assert_close(tensor, its[part], rtol=0, atol=1e-6, msg=part)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ms", "ms+psd", "ms+psd-ema"])
def test_an_interrupted_compiled_training_continues_bit_for_bit(name, trained, make_trainer, train):
    whole, _ = trained(name, compile=True)
    begun, _ = trained(name, range(2), compile=True)
    torch._dynamo.reset()  # as in another process
    resumed = make_trainer(name, 75 if "+" in name else None, learning_rate=1e-3, compile=True)
    resumed.restore(copy.deepcopy(begun.state()))
    train(resumed, range(2, 3))
    for part, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[part]), part


@needs_compiler
@pytest.mark.slow
def test_evaluation_runs_the_backbone_as_it_is(trained):
    trainer, _ = trained("ms", compile=True)
    before = counters["stats"]["unique_graphs"]
    images = torch.randn(3, 1, 16, 16)
    with torch.inference_mode():
        embeddings = trainer.model.eval()(images)
        assert torch.equal(embeddings, copy.deepcopy(trainer.model)(images))
    assert counters["stats"]["unique_graphs"] == before


def test_without_a_compiler_it_is_refused(make_protocol):
    with config.patch({"cpp.cxx": (None, "no-such-compiler")}), pytest.raises(UserError) as raised:
        prepare(make_protocol(compile=True).training, CPU)
    assert str(raised.value) == (
        "training.compile: no C++ compiler was found, which a CPU's code needs; "
        "install g++, or --set training.compile=false"
    )


def test_kernels_of_a_deterministic_protocol_are_not_chosen_by_their_time(make_protocol):
    with config.patch({"deterministic": False}):
        prepare(make_protocol(compile=True, deterministic=True).training, CPU)
        assert config.deterministic
        prepare(make_protocol(compile=True, deterministic=False).training, CPU)
        assert not config.deterministic
    torch.use_deterministic_algorithms(False)
